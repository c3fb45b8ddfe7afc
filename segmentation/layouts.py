"""DSEC-Semantic and DDD17-Seg as they are on disk -> sequences of events with masks.

Source of the layouts, splits and dropped masks: ESS (Sun et al., ECCV 2022) and Ev-SegNet (Alonso
and Murillo, CVPRW 2019).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from gen1.hdf5 import open_hdf5, reading
from gen1.opening import DSEC_EVENTS
from gen1.spec import SPLITS, visible
from gen1.stream import Piece, Stream

DSEC_HW, DSEC_LABELLED_ROWS = (480, 640), 440
DDD17_HW, DDD17_LABELLED_ROWS = (260, 346), 200
RECTIFY_MAP = "rectify_map.h5"
#: The published split; there is no official val.
DSEC_SPLITS = {
    "train": tuple(f"zurich_city_{k}_a" for k in ("00", "01", "02", "04", "05", "06", "07", "08")),
    "test": ("zurich_city_13_a", "zurich_city_14_c", "zurich_city_15_a"),
}
#: Of the folders of DDD17-Seg, sorted.
DDD17_FOLDERS, DDD17_VAL, DDD17_TEST = 7, 1, 4
DDD17_INDEX = tuple(f"index/index_{ms}ms.npy" for ms in (50, 10, 250))
EVENTS_AT_ONCE = 1 << 20
XYP = 3


@dataclass(frozen=True)
class Labelled:
    """One recording: its events, opened, and its mask files by time in us, of the same clock."""

    name: str
    split: str
    source: Path
    events: Stream
    masks: Mapping[int, Path]


def dsec(
    source: Path, classes: int = 11, rectify: bool = True, skip: int = 6, every: int = 2
) -> Iterator[Labelled]:
    """Sequences of DSEC-Semantic below a folder, in splits or by their published names.

    skip: masks at the start of each that are left out; every: of the others each so many-th.
    """
    for folder, split in _dsec_folders(source, f"{classes}classes"):
        events = folder / DSEC_EVENTS
        if not events.is_file():
            raise ValueError(f"{events}: no such file, expected the events of the masks beside it")
        stream = open_hdf5(events)
        if rectify:
            stream = rectified(stream, events.with_name(RECTIFY_MAP))
        masks = _dsec_masks(folder, f"{classes}classes")
        kept = dict([*masks.items()][skip::every])
        if not kept:
            found = f"{len(masks)} masks, the first {skip} left out"
            raise ValueError(f"{folder}: {found}, expected more of them")
        yield Labelled(folder.name, split, events, stream, kept)


def _dsec_folders(source: Path, classes: str) -> list[tuple[Path, str]]:
    """Folders of sequences with masks of these classes, and their splits."""
    split_of = {name: split for split, names in DSEC_SPLITS.items() for name in names}
    found = [(f, split) for split in SPLITS for f in visible(source / split, "*")]
    found += [(f, split_of.get(f.name, "")) for f in visible(source, "*") if f.name not in SPLITS]
    found = [(f, split) for f, split in found if f.is_dir() and any(f.rglob(classes))]
    if not found:
        expected = f"expected folders of sequences with {classes}/ of masks"
        raise ValueError(f"{source}: holds none of DSEC-Semantic, {expected}")
    if unknown := [f.name for f, split in found if not split]:
        expected = f"expected the published ones, or folders {', '.join(SPLITS)}"
        raise ValueError(f"{source}: {unknown[0]} is in no split, {expected}")
    return found


def _dsec_masks(folder: Path, classes: str) -> dict[int, Path]:
    """Times in us -> mask files of a sequence; ValueError if they do not pair."""
    labels = sorted(folder.rglob(classes))[0]
    files = visible(labels / "data" if (labels / "data").is_dir() else labels, "*.png")
    above = [labels, *labels.parents][: len(labels.relative_to(folder).parts) + 1]
    listed = [path for place in above for path in visible(place, "*timestamps.txt")]
    if not listed:
        raise ValueError(f"{folder}: has no *timestamps.txt, expected the times of its masks")
    try:
        times_us = [int(word) for word in listed[0].read_text().split()]
    except ValueError:
        raise ValueError(f"{listed[0]}: holds no whole numbers, expected times in us") from None
    if len(times_us) != len(files) or len({*times_us}) != len(times_us):
        found = f"{len({*times_us})} times for {len(files)} masks in {labels}"
        raise ValueError(f"{listed[0]}: {found}, expected one each")
    return dict(zip(times_us, files, strict=True))


def rectified(stream: Stream, path: Path) -> Stream:
    """The same events where an undistorted camera would see them; those beyond it are left out.

    path: HDF5 file with `rectify_map` [H, W, 2], column and row in px of every pixel.
    """
    if not path.is_file():
        expected = "expected it beside the events, or --rectify false"
        raise ValueError(f"{path}: no such file, {expected}")
    with reading(path), h5py.File(path, "r", locking=False) as file:
        places = file["rectify_map"][:]
    if places.shape != (*DSEC_HW, 2):
        found = f"rectify_map is {[*places.shape]}"
        raise ValueError(f"{path}: {found}, expected {[*DSEC_HW, 2]}")
    columns, rows = np.rint(places[..., 0]), np.rint(places[..., 1])
    (height, width), is_seen = DSEC_HW, np.isfinite(places).all(axis=-1)
    is_seen &= (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    to_column, to_row = (np.where(is_seen, a, 0).astype(np.uint16) for a in (columns, rows))

    def pieces() -> Iterator[Piece]:
        for piece in stream.pieces:
            x, y = piece["x"], piece["y"]
            inside = (x < width) & (y < height)
            inside[inside] = is_seen[y[inside], x[inside]]
            x, y = x[inside], y[inside]
            others = {name: piece[name][inside] for name in ("t", "p")}
            yield {**others, "x": to_column[y, x], "y": to_row[y, x]}

    return stream._replace(pieces=pieces())


def ddd17(source: Path) -> Iterator[Labelled]:
    """Sequences of DDD17-Seg below a folder, in splits or by the published rule."""
    for folder, split in _ddd17_folders(source):
        names = [folder / name for name in DDD17_INDEX]
        index = next((path for path in names if path.is_file()), None)
        if index is None:
            raise ValueError(f"{names[0]}: no such file, expected the times of the pictures")
        events = folder / "events.dat.t"
        stream = Stream(ddd17_events(events, folder / "events.dat.xyp"), DDD17_HW)
        yield Labelled(folder.name, split, events, stream, _ddd17_masks(folder, index))


def _ddd17_folders(source: Path) -> list[tuple[Path, str]]:
    """Folders of sequences and their splits: train, but for one val and one test."""

    def sequences(folder: Path) -> list[Path]:
        return [path for path in visible(folder, "*") if (path / "events.dat.t").is_file()]

    source = source / "data" if (source / "data").is_dir() else source
    found = [(folder, split) for split in SPLITS for folder in sequences(source / split)]
    if found:
        return found
    folders = sequences(source)
    if len(folders) != DDD17_FOLDERS:
        expected = f"expected the {DDD17_FOLDERS} published, or folders {', '.join(SPLITS)}"
        raise ValueError(f"{source}: {len(folders)} folders with events.dat.t, {expected}")
    splits = {DDD17_VAL: "val", DDD17_TEST: "test"}
    return [(folder, splits.get(k, "train")) for k, folder in enumerate(folders)]


def ddd17_events(times: Path, places: Path) -> Iterator[Piece]:
    """Events of two raw files: int64 times in ns, int16 [n, 3] of x, y and polarity."""
    if not places.is_file():
        raise ValueError(f"{places}: no such file, expected the places of {times.name}")
    n, rest = divmod(times.stat().st_size, 8)
    if rest or places.stat().st_size != 2 * XYP * n:
        found = f"{places.stat().st_size} bytes for {times.stat().st_size} of {times.name}"
        raise ValueError(f"{places}: {found}, expected 6 for every 8")
    if not n:
        return
    t = np.memmap(times, np.dtype("<i8"), "r")
    xyp = np.memmap(places, np.dtype("<i2"), "r").reshape(n, XYP)
    for first in range(0, n, EVENTS_AT_ONCE):
        window = slice(first, first + EVENTS_AT_ONCE)
        x, y, p = np.ascontiguousarray(xyp[window].T)
        t_us = np.floor_divide(t[window], 1000)
        yield {"t": t_us, "x": x.view(np.uint16), "y": y.view(np.uint16), "p": p.view(np.uint16)}


def _ddd17_masks(folder: Path, index: Path) -> dict[int, Path]:
    """Times in us -> mask files: file N is of row N - 1 of the index, whose first column is ns."""
    try:
        rows = np.load(index, allow_pickle=False)
        times_us = [-(-int(t_ns) // 1000) for t_ns in rows[:, 0]]
    except (OSError, ValueError, IndexError, EOFError):
        raise ValueError(f"{index}: is no table of times and events, expected an .npy") from None
    masks: dict[int, Path] = {}
    for path in visible(folder / "segmentation_masks", "*.png"):
        number = re.search(r"(\d+)$", path.stem)
        place = int(number[1]) - 1 if number else -1
        if not 0 <= place < len(times_us):
            expected = f"expected a number from 1 to {len(times_us)}, the rows of {index.name}"
            raise ValueError(f"{path}: is of no picture of its recording, {expected}")
        if (known := masks.setdefault(times_us[place], path)) is not path:
            raise ValueError(f"{path}: is of the time of {known.name}, expected one mask")
    if not masks:
        raise ValueError(f"{folder / 'segmentation_masks'}: holds no masks, expected *_N.png")
    return dict(sorted(masks.items()))
