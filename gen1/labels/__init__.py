"""Box labels (*_bbox.npy) in Gen1's and the later 1 Mpx layout, fields mapped by name.

`python -m gen1.labels convert` makes them of COCO, YOLO and VOC labels.
"""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gen1.atomic import atomic_write
from gen1.spec import BOX, SIDES

CLASS, TRACK = ("class_id", "<u4"), ("track_id", "<u4")
LAYOUTS = {
    "gen1": np.dtype([("ts", "<u8"), *SIDES, ("class_id", "u1"), ("confidence", "<f4"), TRACK]),
    # four unused bytes end every box
    "1mpx": np.dtype([("t", "<i8"), *SIDES, CLASS, TRACK, ("class_confidence", "<f4")], align=True),
}
GEN1_NAMES = {"t": "ts", "class_confidence": "confidence"}
#: Fields that are looked at -> what they must hold. The others are taken as they are.
EXPECTED = {
    "t": "whole microseconds",
    **dict.fromkeys("xywh", "pixels"),
    "class_id": "the whole number of a class",
}
#: No data set has its label times nearer to each other (1 Mpx: 60 Hz).
FASTEST_LABELS_US = 16_000
#: What times may have been written in -> microseconds of one.
OTHER_UNITS = {"seconds": 1e6, "milliseconds": 1e3, "nanoseconds": 1e-3}


def read_boxes(path: Path | str) -> np.ndarray:
    """Labels or detections of one recording, BOX [n], in the order of the file.

    Raises ValueError if path is no .npy file or as_boxes refuses what it holds.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected boxes in a .npy file")
    try:
        with path.open("rb") as file:
            stored = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # damaged headers end in many kinds of exceptions
        raise ValueError(f"{path}: is not a readable .npy file, expected boxes") from error
    return as_boxes(stored, str(path))


def checksum(labels: Mapping[str, np.ndarray]) -> int:
    """CRC-32 of recordings' names and labels, BOX [n]: tells which were scored."""
    found = 0
    for name, boxes in labels.items():
        found = zlib.crc32(boxes.tobytes(), zlib.crc32(name.encode(), found))
    return found


def as_boxes(stored: np.ndarray, source: str = "boxes") -> np.ndarray:
    """A copy of boxes in any known layout as BOX [n]; source is what an error message names.

    Confidence and track are not looked at: NaN and 0 where there are none. Raises ValueError for
    another missing field, and naming the row for a value that BOX cannot hold unchanged.
    """
    boxes = np.zeros(stored.size, BOX)
    boxes["class_confidence"] = np.nan
    names = stored.dtype.names or ()
    for name in BOX.names or ():
        column = name if name in names else GEN1_NAMES.get(name, name)
        known = column in names and stored.ndim == 1 and stored.dtype[column].kind in "iuf"
        if known:
            with np.errstate(invalid="ignore", over="ignore"):
                boxes[name] = stored[column]
        if name in EXPECTED:
            if not known:
                found = f"{list(stored.shape)} of {stored.dtype} without a column of {name}"
                raise ValueError(f"{source}: {found}, expected the fields {', '.join(EXPECTED)}")
            _refuse_changed(source, column, EXPECTED[name], stored[column], boxes[name])
    return boxes


def _refuse_changed(
    source: str, column: str, expected: str, stored: np.ndarray, cast: np.ndarray
) -> None:
    """Raise ValueError for the first value that is not finite or, as an integer, another now."""
    held = np.isfinite(cast)
    if cast.dtype.kind in "iu":
        limits = np.iinfo(cast.dtype)
        # float64 has no 2**63 - 1: compare with the power of two above
        with np.errstate(over="ignore"):
            held = (stored >= limits.min) & (stored < limits.max + 1) & (cast == stored)
    if not held.all():
        row = int(np.argmin(held))
        raise ValueError(f"{source}: row {row}: {column} is {stored[row]}, expected {expected}")


def refuse_unknown_classes(boxes: np.ndarray, source: str, class_names: Sequence[str]) -> None:
    """Raise ValueError naming the first row of BOX [n] whose class has no name."""
    unknown = boxes["class_id"] >= len(class_names)
    if unknown.any():
        row = int(np.argmax(unknown))
        known = " or ".join(f"{k} ({name})" for k, name in enumerate(class_names))
        found = f"row {row}: class_id is {boxes['class_id'][row]}"
        raise ValueError(f"{source}: {found}, expected {known}")


def refuse_foreign_times(
    boxes: np.ndarray, source: str, first_us: int, last_us: int, window_us: int
) -> None:
    """Raise ValueError if the times of BOX [n] cannot be those of a recording.

    That is if all end before first_us or begin, window_us before t, after last_us, or if
    all are 1,000 times too small: in the first thousandth of its clock, at 60 Hz or faster.
    """
    t_us = boxes["t"].astype(np.float64)
    if not len(t_us):
        return

    def share(times_us: np.ndarray) -> float:
        return float(np.mean((times_us >= first_us) & (times_us - window_us <= last_us)))

    def could_be(times_us: np.ndarray) -> bool:
        fastest_us = FASTEST_LABELS_US * (len(np.unique(times_us)) - 1)
        return share(times_us) > 0.5 and np.ptp(times_us) >= fastest_us

    rushed = 0 < t_us.max() < FASTEST_LABELS_US * len(np.unique(t_us))
    too_small = rushed and t_us.max() * 1000 <= last_us + window_us
    if share(t_us) > 0 and not too_small:
        return
    found = f"all labels lie between {boxes['t'].min()} and {boxes['t'].max()} us"
    span = f"expected labels of a recording from {first_us} to {last_us} us"
    guesses = [f"look like {unit}" for unit, us in OTHER_UNITS.items() if could_be(t_us * us)]
    if first_us > window_us and could_be(t_us + first_us):
        guesses.append("seem to count from its start")
    guess = f"; the times {guesses[0]}" if guesses else ""
    raise ValueError(f"{source}: {found}, {span}{guess}")


def write_boxes(path: Path | str, boxes: np.ndarray, layout: str = "gen1") -> None:
    """Write BOX [n] atomically as "gen1" (33 bytes a box) or "1mpx" (40 bytes a box).

    Raises ValueError for an unknown layout or a value the layout cannot hold.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"{path}: layout {layout!r}, expected one of {', '.join(LAYOUTS)}")
    stored = np.zeros(len(boxes), LAYOUTS[layout])
    for name in BOX.names or ():
        target = GEN1_NAMES[name] if layout == "gen1" and name in GEN1_NAMES else name
        stored[target] = boxes[name]
        if name in ("t", "class_id") and np.any(stored[target].astype(np.int64) != boxes[name]):
            raise ValueError(f"{path}: a {name} does not fit {stored.dtype[target]} of {layout}")
    if layout == "gen1" and np.any(boxes["t"] < 0):
        raise ValueError(f"{path}: label at {boxes['t'].min()} us, expected times of 0 or later")
    with atomic_write(path) as file:
        np.save(file, stored)


def clip_boxes(boxes: np.ndarray, height: int, width: int) -> np.ndarray:
    """A copy of BOX [n] with both corners of every box moved into [0, width] x [0, height].

    A box wholly outside keeps its row, with a width or height of zero.
    """
    clipped = boxes.copy()
    for start, side, limit in (("x", "w", width), ("y", "h", height)):
        low = boxes[start].astype(np.float64)
        high = np.clip(low + boxes[side], 0, limit)
        clipped[start] = low = np.clip(low, 0, limit)
        clipped[side] = high - low
    return clipped
