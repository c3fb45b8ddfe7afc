"""Find recordings and their labels: {train,val,test}/*_td.dat, *_bbox.npy, or other formats.

`python -m gen1.recordings verify DIR` looks over a download.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gen1 import command
from gen1.labels import read_boxes
from gen1.masks import masks_in, masks_of
from gen1.opening import (
    RAW_SUFFIX,
    is_dsec,
    is_recording,
    labels_of,
    name_of,
    open_recording,
    recordings_in,
)
from gen1.spec import (
    BOX_SUFFIX,
    DAT_SUFFIX,
    SPLITS,
    DatasetSpec,
    by_name,
    counted,
    find_spec,
    listed,
    visible,
)

__all__ = ["Recording", "find_recordings", "list_recordings", "open_recording", "verify"]
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Recording:
    """One recording; split is "" in a directory without split folders, boxes None if absent.

    `dat`: its events, of whatever format. `masks`: the folder of its masks, None if absent.
    """

    name: str
    split: str
    dat: Path
    boxes: Path | None
    masks: Path | None = None


def list_recordings(root: Path | str, require_labels: bool = True) -> list[Recording]:
    """Recordings of every split folder present, sorted by split and name.

    A root without split folders is itself searched; a file is a list of recordings, see _listed.
    Raises ValueError naming a missing or empty directory, a label file without its recording and,
    unless require_labels is False, recordings without labels.
    """
    root = Path(root)
    if root.is_file():
        return _listed(root, require_labels)
    if not root.is_dir():
        raise ValueError(f"{root}: no such directory, expected recordings in {'/, '.join(SPLITS)}/")
    splits = [split for split in SPLITS if (root / split).is_dir()] or [""]
    return [found for split in splits for found in _pair(root / split, split, require_labels)]


def find_recordings(path: str | Path) -> list[Recording]:
    """One recording, or all of a directory as of list_recordings, and the RAW files in it.

    Of a RAW file and another of one name, the other is taken. Labels are those that lie beside.
    Raises ValueError for a path that is neither, and for a directory without any.
    """
    path = Path(path)
    if path.is_file():
        return [_recording(path)]
    if not path.exists():
        raise ValueError(f"{path}: no such file, expected a recording or a directory of them")
    raw = [_recording(file) for file in visible(path, "*") if _is_raw(file)]
    if raw and not any((path / split).is_dir() for split in SPLITS):
        dats = map(_recording, recordings_in(path).values())
        found = {recording.name: recording for recording in [*raw, *dats]}
        return [found[name] for name in sorted(found)]
    return list_recordings(path, require_labels=False) + sorted(raw, key=lambda found: found.name)


def _is_raw(path: Path) -> bool:
    return path.suffix.lower() == RAW_SUFFIX


def _recording(dat: Path, split: str = "") -> Recording:
    """A recording with the labels that lie beside it."""
    boxes, masks = labels_of(dat), masks_of(dat)
    return Recording(
        name_of(dat),
        split,
        dat,
        boxes if boxes.is_file() else None,
        masks if masks.is_dir() else None,
    )


def _listed(path: Path, require_labels: bool) -> list[Recording]:
    """Recordings of a text file with the path of one per line, # starts a comment.

    Relative paths start at the file's directory; labels lie beside the recording; its directory
    names the split if it can.
    """
    recordings = []
    for dat in _listed_paths(path):
        if not is_recording(dat) or not dat.is_file():
            raise ValueError(f"{path}: lists {dat}, expected an existing *{DAT_SUFFIX}")
        found = _recording(dat, split_of(dat))
        if require_labels and not found.boxes:
            expected = f"expected labels {labels_of(dat).name} beside it"
            raise ValueError(f"{path}: lists {dat}, {expected}")
        recordings.append(found)
    keys = [(recording.split, recording.name) for recording in recordings]
    if not keys or len(set(keys)) < len(keys):
        lists = "two recordings of one name and split" if keys else "no recordings"
        raise ValueError(f"{path}: lists {lists}, expected one path of a *{DAT_SUFFIX} per line")
    order = {split: i for i, split in enumerate(("", *SPLITS))}
    return sorted(recordings, key=lambda recording: (order[recording.split], recording.name))


def split_of(dat: Path) -> str:
    """The split that its folder, or that of its DSEC sequence, is named after; or ""."""
    folder = dat.parents[3].name if is_dsec(dat) and len(dat.parents) > 3 else dat.parent.name
    return folder if folder in SPLITS else ""


def _listed_paths(path: Path) -> Iterator[Path]:
    """What the lines of a text file name, hidden files left out.

    A # after a blank starts a comment, except in the path of an existing file.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-16" if content.startswith(UTF16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(f"{path}: is no text, expected a directory or a list of paths in UTF-8")
    for line in text.split("\n"):
        parts = re.split(r"(?<=\s)(?=#)", " " + line)
        names = ["".join(parts[:n]).strip() for n in range(len(parts), 0, -1)]
        found = next((path.parent / n for n in names if n and (path.parent / n).is_file()), None)
        dat = found or path.parent / names[-1]
        if names[-1] and not dat.name.startswith("."):
            yield dat


def _pair(folder: Path, split: str, require_labels: bool) -> list[Recording]:
    """Recordings of one folder, sorted by name."""
    dats, boxes = recordings_in(folder), by_name(folder, BOX_SUFFIX)
    if not dats and not boxes:
        raw = any(visible(folder, f"*{RAW_SUFFIX}"))
        hint = "; `python -m gen1.convert` makes them of RAW files" if raw else ""
        raise ValueError(f"{folder}: holds no recordings, expected files named *{DAT_SUFFIX}{hint}")
    found = [_recording(path, split) for path in dats.values()]
    problems = []
    lone = [f"{name}{BOX_SUFFIX}" for name in sorted(boxes.keys() - dats.keys())]
    lone += [path.name for path in masks_in(folder) if path not in {one.masks for one in found}]
    if lone:
        problems.append(_name_unpaired(lone, "without a recording"))
    expected = f"expected pairs of *{DAT_SUFFIX} and *{BOX_SUFFIX}"
    if require_labels and (lone := [one.dat.name for one in found if not one.boxes]):
        problems.append(_name_unpaired(lone, "without labels"))
        if any(one.masks for one in found):
            expected += "; masks are asked for by --keep masks"
    if problems:
        raise ValueError(f"{folder}: {' and '.join(problems)}, {expected}")
    return found


def _name_unpaired(names: list[str], lack: str) -> str:
    """'2 files without labels (a_td.dat, b_td.dat)', with a few names at most."""
    return f"{counted(len(names), 'files')} {lack} ({listed(names)})"


def spec_of(recordings: Sequence[Recording]) -> DatasetSpec:
    """Classes as label files number them, the sensor of the first recording; says what it found.

    Raises ValueError for recordings without labels or of no size.
    """
    labels = [read_boxes(found.boxes)["class_id"] for found in recordings if found.boxes]
    numbers = np.unique(np.concatenate(labels)).tolist() if labels else []
    first = recordings[0].dat
    with open_recording(first) as reader:
        height, width = reader.height, reader.width
    if not numbers or not height or not width:
        lack = "names no sensor size" if numbers else "no labels beside it or the others"
        raise ValueError(f"{first}: {lack}, expected a data set that says it: --dataset mine.yaml")
    names = tuple(f"class {i}" for i in numbers)
    print(f"read off the labels: {height}x{width} px, {', '.join(names)}")
    return DatasetSpec("labels", height, width, names, tuple((i,) for i in numbers))


def verify(
    directory: str | Path,
    deep: bool = False,
    picture: str | Path | None = None,
    dataset: str = "gen1",
) -> int:
    """Print what a data set holds and what looks wrong; 0 if all looks well, else 1.

    Args:
        directory: Holds train/, val/ and test/.
        deep: Read every event, not only headers.
        picture: Write histograms to this .png.
        dataset: What it should be: gen1, 1mpx, dsec, ... or a YAML file, see docs/data.md.
    """
    from gen1.survey import draw, survey

    found = survey(directory, deep, find_spec(dataset))
    if picture:
        draw(found, picture)
    print("\n".join([*found.summary, *found.problems]))
    return 1 if found.problems else 0


main = command.entry(
    "python -m gen1.recordings",
    "Count recordings, hours, events and boxes; name what looks wrong.",
    verify,
    word="verify",
)
enter = command.door(main)
if __name__ == "__main__":
    enter()
