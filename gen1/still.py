"""For how long each labelled object has stood still: NAME_still_us.npy beside the labels.

The simulator writes it; real recordings have none.
"""

from pathlib import Path

import numpy as np

from gen1.atomic import atomic_write
from gen1.spec import BOX_SUFFIX

STILL_SUFFIX = "_still_us.npy"
#: It moved less than so far, per side of its box.
STILL_PX = 1.0


def still_path(boxes: Path) -> Path:
    """Where the file to a label file is, if there is one."""
    return boxes.with_name(boxes.name.removesuffix(BOX_SUFFIX) + STILL_SUFFIX)


def write_still(boxes: Path, still_us: np.ndarray) -> None:
    """int64 [n], a row per label of the file `boxes`."""
    with atomic_write(still_path(boxes)) as file:
        np.save(file, still_us.astype("<i8"))


def read_still(boxes: Path, n_labels: int) -> np.ndarray | None:
    """int64 [n_labels] in us, or None where there is no such file.

    Raises ValueError for a file that is not one time of 0 or more per label.
    """
    path = still_path(boxes)
    if not path.is_file():
        return None
    expected = f"expected {n_labels} times in us, one per label of {boxes.name}"
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path}: is not a readable .npy file, {expected}") from error
    if found.shape != (n_labels,) or found.dtype.kind not in "iu" or np.any(found < 0):
        raise ValueError(f"{path}: holds {list(found.shape)} of {found.dtype}, {expected}")
    return found.astype(np.int64)
