"""Where the class masks of a recording lie: NAME_masks/TIME.png beside it, time in us."""

from pathlib import Path

import numpy as np

from gen1.opening import name_of
from gen1.spec import visible

MASKS_SUFFIX = "_masks"
#: The latest time that 64 bits hold.
LATEST_US = 2**63 - 1
#: In the root of a set, or of a split: names, colours and ignored number of the classes.
MASKS_FILE = "masks.yaml"


def masks_of(recording: Path) -> Path:
    """Where the masks of a recording are, if there are any."""
    return recording.with_name(name_of(recording) + MASKS_SUFFIX)


def masks_in(folder: Path) -> list[Path]:
    """Folders of masks in a folder, sorted by name."""
    return [path for path in visible(folder, f"*{MASKS_SUFFIX}") if path.is_dir()]


def mask_path(folder: Path, t_us: int) -> Path:
    return folder / f"{t_us}.png"


def mask_files(folder: Path) -> dict[int, Path]:
    """Times in us -> masks of a folder, ascending.

    Raises ValueError for a name that is no time, and for two of one time.
    """
    files: dict[int, Path] = {}
    for path in visible(folder, "*.png"):
        if not path.stem.isdecimal() or int(path.stem) > LATEST_US:
            raise ValueError(f"{path}: is named {path.stem!r}, expected a time in us")
        if (t_us := int(path.stem)) in files:
            raise ValueError(f"{path}: is of the time of {files[t_us].name}, expected one mask")
        files[t_us] = path
    return dict(sorted(files.items()))


def mask_times_us(folder: Path) -> np.ndarray:
    """Times of the masks of a folder, int64 [n], ascending; raises ValueError without any."""
    times_us = np.array([*mask_files(folder)], np.int64)
    if not len(times_us):
        raise ValueError(f"{folder}: holds no masks, expected files named TIME.png")
    return times_us
