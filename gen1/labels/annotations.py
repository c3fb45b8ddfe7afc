"""Labels that others drew on pictures of events -> *_bbox.npy: COCO json, YOLO txt, VOC xml, .npy.

A picture belongs to a recording and a time: by a CSV; by a recording of its name, whose events
end then; by a field `t_us` (COCO); or by its name, RECORDING_000000040000 (COCO, YOLO).
"""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import yaml

from gen1.labels import read_boxes, write_boxes
from gen1.recordings import find_recordings, open_recording
from gen1.spec import BOX, BOX_SUFFIX, DatasetSpec, counted, visible

#: RECORDING_TIME or RECORDING-TIME, in us; a picture without a time has only a name.
TIMED_NAME = re.compile(r"(.+)[_-](\d+)")


XYWH = tuple[float, float, float, float]


class Drawn(NamedTuple):
    """One box: its picture's file, class by name or by number, corner and sides in px.

    `t_us`: the time that the label file itself says, None if it does not.
    """

    picture: str
    label: str | int
    xywh: XYWH
    t_us: int | None = None


@dataclass
class Places:
    """Where pictures belong: `of` maps stems of files to (recording, time in us)."""

    of: dict[str, tuple[str, int]] = field(default_factory=dict)
    by_name: bool = True

    def find(self, drawn: Drawn, source: str) -> tuple[str, int]:
        """Recording and time of a box; ValueError if nothing tells them."""
        stem = Path(drawn.picture).stem
        if stem in self.of:
            return self.of[stem]
        named = TIMED_NAME.fullmatch(stem)
        if drawn.t_us is not None:
            return (named[1] if named else stem), drawn.t_us
        if self.of or not (self.by_name and named):
            expected = "expected it in --times or beside it in --recordings"
            if self.by_name and not self.of:
                expected = f"expected a name like {stem}_000000040000, --times or --recordings"
            raise ValueError(f"{source}: {drawn.picture}: nothing tells its time, {expected}")
        return named[1], int(named[2])


def convert(
    source: Path, output: Path, spec: DatasetSpec, times: Path | None, recordings: Path | None
) -> list[str]:
    """Write the labels of every recording that the source names; what there was, in sentences.

    output: a directory, or the *_bbox.npy of a single recording. Raises ValueError for labels
    that cannot be understood, of unknown classes, or without a time; then nothing is written.
    """
    if source.suffix == ".npy":
        boxes = read_boxes(source)
        spec.classify(boxes, str(source))  # or an unknown class is found only later
        return written({source.stem: boxes}, output)
    read, by_name = reader_of(source)
    places = Places(places_of(times, recordings), by_name)
    rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for drawn in read(source, spec):
        name, t_us = places.find(drawn, str(source))
        if not np.isfinite(drawn.xywh).all() or min(drawn.xywh[2:]) < 0:
            expected = "expected finite sides of 0 or more"
            raise ValueError(f"{source}: {drawn.picture}: a box of {drawn.xywh}, {expected}")
        rows[name].append((t_us, *drawn.xywh, label_id(drawn, spec, source), 1.0, 0))
    if not rows:
        raise ValueError(f"{source}: holds no boxes, expected labels")
    boxes_of = {name: np.array(found, BOX) for name, found in rows.items()}
    return written(
        {name: found[np.lexsort([found["x"], found["t"]])] for name, found in boxes_of.items()},
        output,
    )


def written(boxes_of: Mapping[str, np.ndarray], output: Path) -> list[str]:
    """Write BOX arrays by recording; returns a line for each."""
    if output.suffix == ".npy":
        if len(boxes_of) > 1:
            found = f"labels of {len(boxes_of)} recordings"
            raise ValueError(f"{output}: {found}, expected a directory for them")
        paths = dict.fromkeys(boxes_of, output)
    else:
        output.mkdir(parents=True, exist_ok=True)
        paths = {name: output / f"{name}{BOX_SUFFIX}" for name in boxes_of}
    for name, boxes in boxes_of.items():
        write_boxes(paths[name], boxes, "1mpx")
    return [
        f"{paths[name]}: {counted(len(boxes), 'boxes')} "
        f"at {counted(len(np.unique(boxes['t'])), 'label times')}"
        for name, boxes in sorted(boxes_of.items())
    ]


def label_id(drawn: Drawn, spec: DatasetSpec, source: Path) -> int:
    """What label files of the data set write for a class; ValueError for an unknown one."""
    if isinstance(drawn.label, str):
        if drawn.label not in spec.classes:
            found = f"{drawn.picture}: class {drawn.label!r}"
            raise ValueError(f"{source}: {found}, expected one of {', '.join(spec.classes)}")
        return spec.label_ids[spec.classes.index(drawn.label)][0]
    known = spec.names()
    if drawn.label not in known:
        names = ", ".join(f"{i} ({name})" for i, name in known.items())
        raise ValueError(f"{source}: {drawn.picture}: class {drawn.label}, expected {names}")
    return drawn.label


def places_of(times: Path | None, recordings: Path | None) -> dict[str, tuple[str, int]]:
    """Stems of pictures -> (recording, time in us): a CSV's lines, or the ends of recordings."""
    if times:
        return dict(listed_places(times))
    if not recordings:
        return {}
    found = {}
    for recording in find_recordings(recordings):
        with open_recording(recording.dat) as reader:
            found[recording.name] = recording.name, reader.order.last_us + 1
    return found


def listed_places(path: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    """The lines of a CSV with the columns picture, recording and t_us."""
    columns = ("picture", "recording", "t_us")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                try:
                    yield Path(row["picture"]).stem, (row["recording"], int(row["t_us"]))
                except (KeyError, TypeError, ValueError):
                    expected = f"expected the columns {', '.join(columns)}, t_us a whole number"
                    raise ValueError(f"{path}: line {number}: {dict(row)}, {expected}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}), expected a CSV of times") from None


Reader = Callable[[Path, DatasetSpec], Iterator[Drawn]]


def reader_of(source: Path) -> tuple[Reader, bool]:
    """What reads such labels, and whether names of its pictures may end in times."""
    if source.suffix.lower() == ".json":
        return coco, True
    if source.is_dir() and visible(source, "*.txt"):
        return yolo, True
    if source.is_dir() and visible(source, "*.xml"):
        return voc, False  # PEDRo's frame0017525 is a number, no time
    what = "holds no .txt or .xml" if source.is_dir() else "is none of these"
    what = what if source.exists() else "there is no such file"
    raise ValueError(f"{source}: {what}, expected COCO's .json, a .npy, a folder of .txt or .xml")


def coco(path: Path, _spec: DatasetSpec) -> Iterator[Drawn]:
    """Boxes of a COCO json, classes by name; crowds are left out."""
    try:
        content = json.loads(path.read_bytes())
        pictures = {image["id"]: image for image in content["images"]}
        names = {category["id"]: category["name"] for category in content["categories"]}
        for row in content["annotations"]:
            if not row.get("iscrowd"):
                image = pictures[row["image_id"]]
                x, y, w, h = map(float, row["bbox"])
                t_us = image.get("t_us")
                yield Drawn(image["file_name"], names[row["category_id"]], (x, y, w, h), t_us)
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        expected = "expected COCO's images, categories and annotations"
        raise ValueError(f"{path}: cannot be understood ({reason}), {expected}") from None


def yolo(folder: Path, spec: DatasetSpec) -> Iterator[Drawn]:
    """Boxes of YOLO's .txt files, relative to the sensor; classes by the names of data.yaml."""
    names = yolo_names(folder)
    for path in visible(folder, "*.txt"):
        for label, xywh in yolo_boxes(path, names, spec.height, spec.width):
            yield Drawn(path.name, names.get(label, label), xywh)


def yolo_boxes(
    path: Path, names: Mapping[int, str], height: int, width: int
) -> Iterator[tuple[int, XYWH]]:
    """Numbers of classes and boxes in px of a picture, from YOLO's shares of its sides.

    Raises ValueError for detections and for a class that is none of `names`, if there are any.
    """
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{path}: line {number}: {line[:60]!r}"
        if len(words) == 6:
            raise ValueError(f"{where} has a confidence, expected labels, not detections")
        try:
            label, (x, y, w, h) = int(words[0]), map(float, words[1:])
        except ValueError:
            raise ValueError(f"{where}, expected class cx cy w h") from None
        if names and label not in names:
            raise ValueError(f"{where}, expected a class of data.yaml: {names}")
        yield label, ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)


def yolo_names(folder: Path) -> dict[int, str]:
    """Numbers -> names of a data.yaml in or above the folder; empty if there is none."""
    for path in (folder / "data.yaml", folder.parent / "data.yaml"):
        if path.is_file():
            try:
                names = yaml.safe_load(path.read_bytes())["names"]
                return {
                    int(k): str(name)
                    for k, name in (names.items() if isinstance(names, dict) else enumerate(names))
                }
            except (yaml.YAMLError, LookupError, TypeError, ValueError) as error:
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"{path}: cannot be understood ({reason}), expected names"
                ) from None
    return {}


def voc(folder: Path, _spec: DatasetSpec) -> Iterator[Drawn]:
    """Boxes of PASCAL VOC's .xml files."""
    for path in visible(folder, "*.xml"):
        for label, xywh in voc_boxes(path):
            yield Drawn(path.name, label, xywh)


def voc_boxes(path: Path) -> Iterator[tuple[str, XYWH]]:
    """Names of classes and boxes in px; xmax and ymax are the first px beyond a box."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    try:
        for item in ElementTree.parse(path).getroot().iter("object"):
            x, y, right, bottom = (float(item.findtext(f"bndbox/{key}") or "nan") for key in keys)
            yield item.findtext("name") or "", (x, y, right - x, bottom - y)
    except (ElementTree.ParseError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be understood ({reason}), expected VOC labels") from None
