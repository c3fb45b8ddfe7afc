"""What a Gen1 recording is: sensor, classes, splits and record layouts.

Source: de Tournemire et al., "A Large Scale Event-based Detection Dataset for Automotive", 2020.
"""

import re
from pathlib import Path

import numpy as np

HEIGHT, WIDTH = 240, 304
CLASSES = ("car", "pedestrian")
SPLITS = ("train", "val", "test")
DAT_SUFFIX, BOX_SUFFIX = "_td.dat", "_bbox.npy"
RECORDINGS_PER_SPLIT = {"train": 1460, "val": 429, "test": 470}

#: Decoded events: time in us, column, row, polarity (0 = OFF, 1 = ON).
EVENT = np.dtype([("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])

SIDES = [(side, "<f4") for side in "xywh"]
#: Boxes in memory: time in us, top-left corner and size in sensor pixels.
BOX = np.dtype(
    [("t", "<i8"), *SIDES, ("class_id", "<u4"), ("class_confidence", "<f4"), ("track_id", "<u4")]
)


def visible(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder that match, sorted; names that begin with a dot are not ours (macOS)."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def by_name(folder: Path, suffix: str) -> dict[str, Path]:
    """Names of a folder's recordings -> their files that end so, sorted."""
    return {path.name.removesuffix(suffix): path for path in visible(folder, f"*{suffix}")}


def counted(n: int, things: str) -> str:
    """ "3 boxes of no class", or "1 box of no class": a number and a noun in its plural."""
    return f"{n} {things}" if n != 1 else "1 " + re.sub(r"(?<=x)es\b|s\b", "", things, count=1)
