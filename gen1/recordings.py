"""Pair the recordings of a data set with their labels: {train,val,test}/*_td.dat, *_bbox.npy."""

from dataclasses import dataclass
from pathlib import Path

from gen1.spec import SPLITS

DAT_SUFFIX, BOX_SUFFIX = "_td.dat", "_bbox.npy"
NAMES_SHOWN = 3


@dataclass(frozen=True)
class Recording:
    """One recording; split is "" in a directory without split folders, boxes None if absent."""

    name: str
    split: str
    dat: Path
    boxes: Path | None


def list_recordings(
    root: Path | str, split: str | None = None, require_labels: bool = True
) -> list[Recording]:
    """Recordings of one split, or of every split folder present, sorted by split and name.

    A root without split folders is itself searched when no split is asked for. Raises
    ValueError naming a missing or empty directory, a label file without its recording and,
    unless require_labels is False, recordings without labels.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root}: no such directory, expected recordings in {'/, '.join(SPLITS)}/")
    if split is None:
        folders = {name: root / name for name in SPLITS if (root / name).is_dir()} or {"": root}
    elif split not in SPLITS:
        raise ValueError(f"split {split!r}, expected one of {', '.join(SPLITS)}")
    elif not (root / split).is_dir():
        raise ValueError(f"{root}: has no folder {split}, expected recordings in {split}/")
    else:
        folders = {split: root / split}
    return [
        recording
        for name, folder in folders.items()
        for recording in _pair(folder, name, require_labels)
    ]


def _pair(folder: Path, split: str, require_labels: bool) -> list[Recording]:
    """Recordings of one folder, sorted by name."""
    dats = {path.name.removesuffix(DAT_SUFFIX): path for path in folder.glob(f"*{DAT_SUFFIX}")}
    boxes = {path.name.removesuffix(BOX_SUFFIX): path for path in folder.glob(f"*{BOX_SUFFIX}")}
    if not dats and not boxes:
        raw = any(folder.glob("*.raw"))
        hint = "; `python -m gen1.convert` makes them of RAW files" if raw else ""
        raise ValueError(f"{folder}: holds no recordings, expected files named *{DAT_SUFFIX}{hint}")
    problems = []
    if lone := sorted(boxes.keys() - dats.keys()):
        problems.append(_name_unpaired(lone, BOX_SUFFIX, "without a recording"))
    if require_labels and (lone := sorted(dats.keys() - boxes.keys())):
        problems.append(_name_unpaired(lone, DAT_SUFFIX, "without labels"))
    if problems:
        expected = f"expected pairs of *{DAT_SUFFIX} and *{BOX_SUFFIX}"
        raise ValueError(f"{folder}: {' and '.join(problems)}, {expected}")
    return [Recording(name, split, dats[name], boxes.get(name)) for name in sorted(dats)]


def _name_unpaired(names: list[str], suffix: str, lack: str) -> str:
    """'2 files without labels (a_td.dat, b_td.dat)', with at most NAMES_SHOWN names."""
    shown = ", ".join(name + suffix for name in names[:NAMES_SHOWN])
    more = ", ..." if len(names) > NAMES_SHOWN else ""
    return f"{len(names)} {'file' if len(names) == 1 else 'files'} {lack} ({shown}{more})"
