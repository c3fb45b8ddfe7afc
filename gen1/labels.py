"""Box labels (*_bbox.npy) in Gen1's and the later 1 Mpx layout, fields mapped by name."""

from pathlib import Path

import numpy as np

from gen1.atomic import atomic_write
from gen1.spec import BOX

LAYOUTS = {
    "gen1": np.dtype(
        [
            ("ts", "<u8"),
            ("x", "<f4"),
            ("y", "<f4"),
            ("w", "<f4"),
            ("h", "<f4"),
            ("class_id", "u1"),
            ("confidence", "<f4"),
            ("track_id", "<u4"),
        ]
    ),
    "1mpx": np.dtype(
        [
            ("t", "<i8"),
            ("x", "<f4"),
            ("y", "<f4"),
            ("w", "<f4"),
            ("h", "<f4"),
            ("class_id", "<u4"),
            ("track_id", "<u4"),
            ("class_confidence", "<f4"),
        ],
        align=True,  # four unused bytes end every box
    ),
}
GEN1_NAMES = {"t": "ts", "class_confidence": "confidence"}


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


def as_boxes(stored: np.ndarray, source: str = "boxes") -> np.ndarray:
    """A copy of boxes in any known layout as BOX [n]; source is what an error message names.

    Raises ValueError for a missing field or a non-finite coordinate.
    """
    boxes = np.empty(stored.size, BOX)
    for name in BOX.names or ():
        names = stored.dtype.names or ()
        column = name if name in names else GEN1_NAMES.get(name, name)
        if column not in names or stored.ndim != 1 or stored.dtype[column].kind not in "iuf":
            found = f"{list(stored.shape)} of {stored.dtype} without a column of {name}"
            raise ValueError(f"{source}: {found}, expected the fields {', '.join(BOX.names or ())}")
        boxes[name] = stored[column]
    if not all(np.isfinite(boxes[name]).all() for name in "xywh"):
        raise ValueError(f"{source}: a box has a non-finite coordinate, expected pixels")
    return boxes


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
