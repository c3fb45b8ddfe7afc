"""What the numbers in masks mean: names, colours, and which pixels do not count."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gen1.atomic import atomic_write
from gen1.masks import MASKS_FILE
from gen1.spec import flat, is_id, read_yaml, refuse_other_fields, twice
from segmentation import presets
from segmentation.presets import Colour

#: The largest number that an 8-bit mask holds.
LARGEST = 255
#: The class, in memory, of a pixel that is neither learnt nor scored.
IGNORED = 255


@dataclass(frozen=True)
class MaskSpec:
    """Classes of masks. Raises ValueError if impossible.

    Args:
        name: Its name, for people.
        classes: Names of the classes; their place is the class of labels and predictions.
        colours: Red, green, blue of each class, 0 to 255; empty: those of PASCAL VOC.
        ignored: What mask files write for pixels that are neither learnt nor scored.
        numbers: What they write for each class; empty: its place in `classes`.
        ignored_numbers: What else they write for ignored pixels.
    """

    name: str
    classes: tuple[str, ...]
    colours: tuple[Colour, ...] = ()
    ignored: int = 255
    numbers: tuple[int, ...] = ()
    ignored_numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        classes, ignored_numbers = tuple(self.classes), tuple(self.ignored_numbers)
        numbers = tuple(self.numbers) or tuple(range(len(classes)))
        colours = tuple(tuple(colour) for colour in self.colours) or voc_colours(len(classes))
        stored = (classes, colours, numbers, ignored_numbers)
        for name, value in zip(
            ("classes", "colours", "numbers", "ignored_numbers"), stored, strict=True
        ):
            object.__setattr__(self, name, value)
        written = [*map(str, (*numbers, self.ignored, *ignored_numbers))]
        doubled = [name for names in ([*classes], written) for name in twice(names)]
        values = (self.ignored, *numbers, *ignored_numbers, *flat(list(colours)))
        n = len(classes)
        for is_so, found, expected in (
            (n < 2, f"has {n} classes", "two at least"),
            (n > LARGEST, f"has {n} classes", f"{LARGEST} at most in masks of 8 bits"),
            (bool(doubled), f"names {', '.join(map(repr, doubled))} twice", "each once"),
            (
                not all(isinstance(name, str) and name.strip() for name in classes),
                "has names that are no text",
                "words, in quotes where YAML takes them for something else",
            ),
            (len(colours) != n, f"has {len(colours)} colours for {n} classes", "one each"),
            (len(numbers) != n, f"has {len(numbers)} numbers for {n} classes", "one each"),
            (any(len(c) != 3 for c in colours), "has colours of other lengths", "three numbers"),
            (
                not all(is_id(v) and v <= LARGEST for v in values),
                "has other numbers and colours",
                f"whole numbers from 0 to {LARGEST}",
            ),
        ):
            if is_so:
                raise ValueError(f"classes of masks {self.name}: {found}, expected {expected}")

    @cached_property
    def _table(self) -> np.ndarray:
        """Number in a file -> class or IGNORED, int16 [256]; -1 for one that means nothing."""
        table = np.full(LARGEST + 1, -1, np.int16)
        table[[self.ignored, *self.ignored_numbers]] = IGNORED
        table[[*self.numbers]] = np.arange(len(self.classes))
        return table

    def classify(self, mask: np.ndarray, source: str) -> np.ndarray:
        """uint8 [...] as files hold it -> uint8 [...] of classes and IGNORED.

        Raises ValueError, naming the source, for a number that means nothing.
        """
        table = self._table
        unknown = np.flatnonzero((np.bincount(mask.reshape(-1), minlength=256) > 0) & (table < 0))
        if len(unknown):
            raise ValueError(f"{source}: {self._unknown(mask, unknown.tolist())}")
        return table.astype(np.uint8)[mask]

    def _unknown(self, mask: np.ndarray, unknown: list[int]) -> str:
        """What is wrong with these numbers, in words."""
        n = len(self.classes)
        share = float(np.isin(mask, unknown).mean())
        found = f"{share:.1%} of its pixels are {', '.join(map(str, unknown[:3]))}"
        found += ", ..." if len(unknown) > 3 else ""
        expected = f"expected the {n} classes {spans(self.numbers)} of {self.name}"
        expected += f" or {spans((self.ignored, *self.ignored_numbers))} for ignored"
        if unknown == [n] and self.numbers == tuple(range(n)):
            expected += "; one number too many: do its masks count from 1, with 0 for ignored,"
            expected += " as ADE20K's do?"
        if unknown == [LARGEST] and self.ignored == 0 and self.numbers == tuple(range(1, n + 1)):
            expected += "; do its masks count from 0, with 255 for ignored, as no original's do?"
        return f"{found}, {expected}"

    def palette(self) -> np.ndarray:
        """uint8 [256, 3]: the colour of every class, white for what is none."""
        table = np.full((LARGEST + 1, 3), 255, np.uint8)
        table[: len(self.classes)] = self.colours
        return table

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as files hold it and `mask_spec_from` reads it."""
        content: dict[str, Any] = {"name": self.name, "classes": [*self.classes]}
        content |= {"colours": [[*colour] for colour in self.colours], "ignored": self.ignored}
        if self.numbers != tuple(range(len(self.classes))):
            content["numbers"] = [*self.numbers]
        if self.ignored_numbers:
            content["ignored_numbers"] = [*self.ignored_numbers]
        return content


def spans(numbers: Any) -> str:
    """Whole numbers in words, as "0-10, 255"."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts)


def voc_colours(count: int) -> tuple[Colour, ...]:
    """Colours for as many classes: the bits of a number, three by three, from the highest bit."""
    colours = np.zeros((count, 3), int)
    for place in range(8):
        bits = np.arange(count)[:, None] >> 3 * place + np.arange(3)
        colours |= (bits & 1) << 7 - place
    return tuple((r, g, b) for r, g, b in colours.tolist())


def _preset(name: str, pairs: tuple[tuple[str, Colour], ...]) -> MaskSpec:
    return MaskSpec(name, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))


_CITYSCAPES = tuple((name, colour) for name, _, colour in presets.CITYSCAPES)
#: Classes of masks by name. cityscapes: its *_labelIds.png; ade20k: masks that count from 1.
MASKS: dict[str, MaskSpec] = {
    spec.name: spec
    for spec in (
        MaskSpec(
            "simulator",
            ("background", "road", "building", "vegetation", "car", "pedestrian"),
            (
                *((70, 130, 180), (128, 64, 128), (70, 70, 70)),
                *((107, 142, 35), (0, 0, 142), (220, 20, 60)),
            ),
        ),
        _preset("dsec-11", presets.DSEC_11),
        _preset("dsec-19", _CITYSCAPES),
        _preset("ddd17", presets.DDD17),
        MaskSpec("ade20k", presets.ADE20K, numbers=tuple(range(1, 151)), ignored=0),
        MaskSpec(
            "cityscapes",
            tuple(name for name, _ in _CITYSCAPES),
            tuple(colour for _, colour in _CITYSCAPES),
            numbers=tuple(number for _, number, _ in presets.CITYSCAPES),
            ignored_numbers=presets.CITYSCAPES_VOID,
        ),
        MaskSpec("voc", presets.VOC),
    )
}


def mask_spec_from(content: Any, source: str) -> MaskSpec:
    """The spec of plain data; raises ValueError, naming the source, for what is none."""
    refuse_other_fields(content, MaskSpec, source)
    if not isinstance(content.get("classes"), list | tuple):
        found = f"classes is {content.get('classes')!r}"
        raise ValueError(f"{source}: {found}, expected a list of names")
    try:
        return MaskSpec(**{"name": Path(source).stem, **content})
    except TypeError:
        found = "cannot be understood"
        raise ValueError(f"{source}: {found}, expected lists of numbers and colours") from None


def read_mask_spec(path: Path) -> MaskSpec:
    """The spec in a YAML file; ValueError for one that cannot be read or is none."""
    return mask_spec_from(read_yaml(path, "expected classes"), str(path))


def find_mask_spec(name: str | Path) -> MaskSpec:
    """A spec by its name in MASKS, of a YAML file, or of the masks.yaml in a folder."""
    if str(name) in MASKS:
        return MASKS[str(name)]
    path = Path(name) / MASKS_FILE if Path(name).is_dir() else Path(name)
    if not path.is_file():
        expected = f"expected {', '.join(MASKS)} or a YAML file that names the classes"
        raise ValueError(f"{path}: no such file or classes of masks, {expected}")
    return read_mask_spec(path)


def write_mask_spec(path: Path, spec: MaskSpec) -> None:
    """Write a spec as YAML, atomically."""
    text = yaml.safe_dump(spec.as_dict(), sort_keys=False, default_flow_style=None, width=1000)
    with atomic_write(path) as file:
        file.write(text.encode())
