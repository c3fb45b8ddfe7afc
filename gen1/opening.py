"""One door to recordings of every format: which files of a folder they are, and a reader of one."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from gen1.convert import OPENERS, spool
from gen1.dat import DatReader
from gen1.spec import BOX_SUFFIX, DAT_SUFFIX, by_name, visible

#: Endings of recordings; of two with one name the first is taken.
SUFFIXES = (DAT_SUFFIX, f"{DAT_SUFFIX}.h5", "_td.h5", ".hdf5", ".aedat4")
#: Endings that mean recordings only where a folder has no others: tables may be anything.
TABLES = (".h5", ".npy", ".npz", ".csv")
RAW_SUFFIX = ".raw"
#: Below a sequence of DSEC's: its events and its labels.
DSEC_EVENTS, DSEC_LABELS = "events/left/events.h5", "object_detections/left/tracks.npy"


def recordings_in(folder: Path) -> dict[str, Path]:
    """Names of a folder's recordings -> their files, sorted by name; RAW files are left out."""
    found: dict[str, Path] = {}
    for suffixes in (SUFFIXES, TABLES):
        for suffix in reversed(suffixes):
            found |= by_name(folder, suffix)
        found = {name: path for name, path in found.items() if not path.name.endswith(BOX_SUFFIX)}
        if found:
            break
    for sequence in visible(folder, "*"):
        if (sequence / DSEC_EVENTS).is_file():
            found[sequence.name] = sequence / DSEC_EVENTS
    return dict(sorted(found.items()))


def is_dsec(path: Path) -> bool:
    """Are these the events of a sequence of DSEC's?"""
    return path.as_posix().endswith(f"/{DSEC_EVENTS}")


def name_of(path: Path) -> str:
    """A recording's name: that of its file without the ending, of a DSEC sequence its folder's."""
    if is_dsec(path):
        return path.parents[2].name
    ending = next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), path.suffix)
    return path.name.removesuffix(ending)


def labels_of(path: Path) -> Path:
    """Where the labels of a recording are, if there are any."""
    if is_dsec(path):
        return path.parents[2] / DSEC_LABELS
    return path.with_name(name_of(path) + BOX_SUFFIX)


def is_recording(path: Path) -> bool:
    """Is a file, by its name, a recording of some format?"""
    return path.suffix.lower() in {".dat", *OPENERS} and not path.name.endswith(BOX_SUFFIX)


@contextmanager
def open_recording(
    path: str | Path, height: int | None = None, width: int | None = None
) -> Iterator[DatReader]:
    """A reader of a recording of any format that `python -m gen1.convert` knows.

    What is no .dat is written to a temporary one first, in bounded memory, its height and width
    as there; times are the file's own. What is odd is said on stderr. Raises ValueError for what
    is no recording.
    """
    path = Path(path)
    if path.suffix.lower() not in OPENERS:
        yield DatReader(path)
        return
    with TemporaryDirectory(prefix="spikeyolo-") as folder:
        target = Path(folder) / f"{name_of(path)}{DAT_SUFFIX}"
        converted, origin_us = spool(path, target, height, width, synced=False)
        for note in converted.notes:
            print(f"note: {path.name}: {note}", file=sys.stderr)
        is_raw = path.suffix.lower() == RAW_SUFFIX  # counts from the start of its .dat
        yield DatReader(target, 0 if is_raw else origin_us, path)
