"""What a data set of event recordings is: sensor, classes, splits, scoring; record layouts.

Sources: de Tournemire et al., "A Large Scale Event-based Detection Dataset for Automotive", 2020;
Perot et al., "Learning to Detect Objects with a 1 Megapixel Event Camera", 2020 (1 Mpx).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml

SPLITS = ("train", "val", "test")
ProtocolName = Literal["prophesee", "all-boxes", "rvt"]
DAT_SUFFIX, BOX_SUFFIX = "_td.dat", "_bbox.npy"

#: Decoded events: time in us, column, row, polarity (0 = OFF, 1 = ON).
EVENT = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])

SIDES = [(side, "<f4") for side in "xywh"]
#: Boxes in memory: time in us, top-left corner and size in sensor pixels.
BOX = np.dtype(
    [("t", "<i8"), *SIDES, ("class_id", "<u4"), ("class_confidence", "<f4"), ("track_id", "<u4")]
)


def twice(names: Iterable[str]) -> list[str]:
    """What stands in a list more than once."""
    return [name for name, n in Counter(names).items() if n > 1]


@dataclass(frozen=True)
class DatasetSpec:
    """What must be known of a data set beside its files. Raises ValueError if impossible.

    Args:
        name: Its name, for people.
        height: Sensor height in px.
        width: Sensor width in px.
        classes: Names of the classes; their place is the class of labels and detections.
        label_ids: What label files write for each class, one or more numbers a class; empty: its
            place in `classes`.
        ignored_ids: What label files write for objects that are left out.
        protocol: Rule of the mAP, if a command asks for none.
        min_diagonal_px: Smallest box that the protocols prophesee and rvt count.
        min_side_px: Its smallest side.
        label_grid_us: Step of the label times that the protocol rvt keeps, in us.
        published: Recordings of each split that the complete set has; empty if unknown.
        duration_s: Length of all its recordings; 0 if they differ.
    """

    name: str
    height: int
    width: int
    classes: tuple[str, ...]
    label_ids: tuple[tuple[int, ...], ...] = ()
    ignored_ids: tuple[int, ...] = ()
    protocol: ProtocolName = "all-boxes"
    min_diagonal_px: float = 0.0
    min_side_px: float = 0.0
    label_grid_us: int = 250_000
    published: Mapping[str, int] = field(default_factory=dict)
    duration_s: float = 0.0

    def __post_init__(self) -> None:
        ids = self.label_ids or [(k,) for k in range(len(self.classes))]
        as_tuples = tuple((i,) if isinstance(i, int) else tuple(i) for i in ids)
        for name, value in (
            ("classes", tuple(self.classes)),
            ("label_ids", as_tuples),
            ("ignored_ids", tuple(self.ignored_ids)),
        ):
            object.__setattr__(self, name, value)
        numbers = [*map(str, sum(as_tuples, self.ignored_ids))]
        doubled = [name for names in (self.classes, numbers) for name in twice(names)]
        protocols = get_args(ProtocolName)
        for is_so, found, expected in (
            (not self.classes, "has no classes", "one name at least"),
            (bool(doubled), f"names {', '.join(map(repr, doubled))} twice", "every class once"),
            (
                len(as_tuples) != len(self.classes),
                f"has label_ids for {len(as_tuples)} of {len(self.classes)} classes",
                "them for each",
            ),
            (
                self.protocol not in protocols,
                f"protocol is {self.protocol!r}",
                ", ".join(protocols),
            ),
            (
                min(self.height, self.width) < 1,
                f"a sensor of {self.height}x{self.width} px",
                "1 px or more a side",
            ),
        ):
            if is_so:
                raise ValueError(f"data set {self.name}: {found}, expected {expected}")

    def unlike(self, expected: "DatasetSpec") -> str:
        """What shapes samples and scores and differs, as "height 240, expected 720", or ""."""
        names = ["height", "width", "classes", "label_ids", "ignored_ids"]
        names += ["min_diagonal_px", "min_side_px", "label_grid_us"]
        pairs = [
            (name, _text(getattr(self, name)), _text(getattr(expected, name))) for name in names
        ]
        return "; ".join(f"{name} {old}, expected {new}" for name, old, new in pairs if old != new)

    @property
    def sensor_hw(self) -> tuple[int, int]:
        """Height and width in px."""
        return self.height, self.width

    def names(self) -> dict[int, str]:
        """Numbers in label files -> names of their classes."""
        return {
            i: name for ids, name in zip(self.label_ids, self.classes, strict=True) for i in ids
        }

    def classify(self, boxes: np.ndarray, source: str) -> np.ndarray:
        """BOX [n] as a label file of this data set writes them -> BOX [m] of our classes.

        Ignored ones are left out. Raises ValueError naming the first row of an unknown id.
        """
        known = {i: k for k, ids in enumerate(self.label_ids) for i in ids}
        found, place = np.unique(boxes["class_id"], return_inverse=True)
        unknown = [i for i in found.tolist() if i not in known and i not in self.ignored_ids]
        if unknown:
            row = int(np.argmax(np.isin(boxes["class_id"], unknown)))
            names = " or ".join(f"{i} ({self.classes[k]})" for i, k in known.items())
            where = f"{source}: row {row}: class_id is {boxes['class_id'][row]}"
            raise ValueError(f"{where}, expected {names}")
        kept = np.isin(boxes["class_id"], list(known))
        classes = np.array([known.get(i, 0) for i in found.tolist()], boxes["class_id"].dtype)
        boxes = boxes.copy()
        boxes["class_id"] = classes[place.reshape(-1)] if len(boxes) else 0
        return boxes[kept]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as files hold it and `spec_from` reads it."""
        return {**asdict(self), "published": dict(self.published)}


GEN1 = DatasetSpec(
    "gen1",
    height=240,
    width=304,
    classes=("car", "pedestrian"),
    protocol="prophesee",
    min_diagonal_px=30,
    min_side_px=10,
    published={"train": 1460, "val": 429, "test": 470},
    duration_s=60,
)
_MEGAPIXEL = DatasetSpec(
    "1mpx-all",
    height=720,
    width=1280,
    classes=(
        *("pedestrian", "two-wheeler", "car", "truck", "bus"),
        *("traffic sign", "traffic light"),
    ),
    protocol="prophesee",
    min_diagonal_px=60,
    min_side_px=20,
    label_grid_us=100_000,
)
#: Data sets by name. 1mpx: the three classes that Prophesee and RVT score; 1mpx-all: all seven.
DATASETS: dict[str, DatasetSpec] = {
    spec.name: spec
    for spec in (
        GEN1,
        replace(
            _MEGAPIXEL,
            name="1mpx",
            classes=_MEGAPIXEL.classes[:3],
            label_ids=_MEGAPIXEL.label_ids[:3],
            ignored_ids=(3, 4, 5, 6),
        ),
        _MEGAPIXEL,
        DatasetSpec(
            "dsec",
            height=480,
            width=640,
            classes=(
                *("pedestrian", "rider", "car", "bus", "truck"),
                *("bicycle", "motorcycle", "train"),
            ),
        ),
        DatasetSpec("pedro", height=260, width=346, classes=("person",)),
        DatasetSpec(
            "etram",
            height=720,
            width=1280,
            classes=("pedestrian", "vehicle", "micromobility"),
        ),
    )
}


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def unnamed(count: int) -> tuple[str, ...]:
    """Names of classes that nobody named."""
    return tuple(f"class {k}" for k in range(count))


def spec_from(settings: Any, source: str) -> DatasetSpec:
    """The spec of plain data: a YAML file's, or what `as_dict` gave.

    `classes` is a list of names, or a mapping of names to the numbers in label files. Raises
    ValueError, naming the source, for what is no spec.
    """
    refuse_other_fields(settings, DatasetSpec, source)
    if lacking := [name for name in ("height", "width", "classes") if name not in settings]:
        raise ValueError(f"{source}: says no {lacking[0]}, expected height, width and classes")
    given = {"name": Path(source).stem, **settings}
    classes = given["classes"]
    if isinstance(classes, Mapping):
        given |= {"classes": tuple(classes), "label_ids": tuple(classes.values())}
    elif isinstance(classes, str) or not isinstance(classes, Iterable):
        raise ValueError(f"{source}: classes is {classes!r}, expected a list of names")
    for name, value in given.items():
        if isinstance(getattr(GEN1, name), int | float) and not isinstance(value, int | float):
            raise ValueError(f"{source}: {name} is {value!r}, expected a number")
        if name in ("label_ids", "ignored_ids") and not all(map(is_id, flat(value))):
            raise ValueError(f"{source}: {name} is {value!r}, expected whole numbers")
    return DatasetSpec(**given)


def refuse_other_fields(content: Any, kind: Any, source: str) -> None:
    """ValueError for what is no mapping, or names something that is no field of a dataclass."""
    known = [f.name for f in fields(kind)]
    if not isinstance(content, Mapping):
        found = f"holds {type(content).__name__}"
        raise ValueError(f"{source}: {found}, expected {listed(known, 4)}")
    if unknown := [name for name in content if name not in known]:
        raise ValueError(f"{source}: unknown {unknown[0]!r}, expected some of {', '.join(known)}")


def read_yaml(path: Path, expected: str) -> Any:
    """What is in a YAML file; ValueError for one that cannot be read."""
    try:
        return yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: is no readable YAML ({reason}), {expected}") from None


def flat(values: Any) -> Iterator[Any]:
    """What is in lists of lists, or the value itself."""
    if not isinstance(values, list | tuple):
        yield values
        return
    for value in values:
        yield from flat(value)


def is_id(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def find_spec(name: str | Path) -> DatasetSpec:
    """A data set by its name in DATASETS, or the spec that a YAML file describes.

    Raises ValueError for another name and for a file that cannot be read or is no spec.
    """
    if str(name) in DATASETS:
        return DATASETS[str(name)]
    path = Path(name)
    expected = f"expected {', '.join(DATASETS)} or a YAML file with height, width and classes"
    if not path.is_file():
        raise ValueError(f"dataset is {str(name)!r}, {expected}")
    return spec_from(read_yaml(path, expected), str(path))


def visible(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder that match, sorted; names that begin with a dot are not ours (macOS)."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def by_name(folder: Path, suffix: str) -> dict[str, Path]:
    """Names of a folder's recordings -> their files that end so, sorted."""
    return {path.name.removesuffix(suffix): path for path in visible(folder, f"*{suffix}")}


def listed(names: Sequence[str], shown: int = 3) -> str:
    """ "a, b, c, ...": the first few of them."""
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def counted(n: int, things: str) -> str:
    """ "3 boxes of no class", or "1 box of no class": a number and a noun in its plural."""
    return f"{n} {things}" if n != 1 else "1 " + re.sub(r"(?<=x)es\b|s\b", "", things, count=1)
