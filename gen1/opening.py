"""Any recording that a user has: .dat or RAW, one or a directory of them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from gen1.convert import convert
from gen1.dat import DatReader
from gen1.recordings import Recording, list_recordings
from gen1.spec import BOX_SUFFIX, DAT_SUFFIX, SPLITS, visible

RAW_SUFFIX = ".raw"


def find_recordings(path: str | Path) -> list[Recording]:
    """One recording, or all of a directory as of list_recordings, and the RAW files in it.

    Of a RAW file and a .dat of one name, the .dat is taken. Labels are those that lie beside.
    Raises ValueError for a path that is neither, and for a directory without any.
    """
    path = Path(path)
    if path.is_file():
        return [_recording(path)]
    if not path.exists():
        raise ValueError(f"{path}: no such file, expected a recording or a directory of them")
    raw = [_recording(file) for file in visible(path, "*") if _is_raw(file)]
    if raw and not any((path / split).is_dir() for split in SPLITS):
        dats = map(_recording, visible(path, f"*{DAT_SUFFIX}"))
        by_name = {recording.name: recording for recording in [*raw, *dats]}
        return [by_name[name] for name in sorted(by_name)]
    return list_recordings(path, require_labels=False) + sorted(raw, key=lambda found: found.name)


@contextmanager
def open_recording(
    path: str | Path, height: int | None = None, width: int | None = None
) -> Iterator[DatReader]:
    """A reader; a RAW file is converted to a temporary .dat first, height and width as there.

    What is odd about a RAW file is said on stderr. Raises ValueError for what is no recording.
    """
    path = Path(path)
    if not _is_raw(path):
        yield DatReader(path)
        return
    with TemporaryDirectory(prefix="spikeyolo-") as folder:
        target = Path(folder) / f"{path.stem}{DAT_SUFFIX}"
        for note in convert(path, target, height, width).notes:
            print(f"note: {path.name}: {note}", file=sys.stderr)
        yield DatReader(target)


def _is_raw(path: Path) -> bool:
    return path.suffix.lower() == RAW_SUFFIX


def _recording(file: Path) -> Recording:
    name = file.name.removesuffix(DAT_SUFFIX) if file.name.endswith(DAT_SUFFIX) else file.stem
    boxes = file.with_name(name + BOX_SUFFIX)
    return Recording(name, "", file, boxes if boxes.is_file() else None)
