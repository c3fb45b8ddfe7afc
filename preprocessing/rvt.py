"""RVT's preprocessed sets -> our cache: event_representations_v2 and labels_v2, frames of 50 ms.

A frame is uint8 [20, H, W]: ten bins of OFF, then of ON, between its first and last event, counts
cut at 10; its ten bins are summed to one time step. Source: Gehrig and Scaramuzza, "Recurrent
Vision Transformers for Object Detection with Event Cameras", 2023, and its public scripts.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import h5py
import hdf5plugin
import numpy as np

from gen1.labels import as_boxes
from gen1.recordings import Recording
from gen1.spec import DATASETS, SPLITS, DatasetSpec, visible
from preprocessing.cache import (
    Report,
    create_cache,
    report_of,
    sources_of,
    write_report,
    write_sample,
)
from preprocessing.histogram import MAX_COUNT, EventTally, HistogramSettings

FRAME_US, BINS = 50_000, 10
#: Ends of frames that touch lie FRAME_US apart, give or take what rounding to 1 us leaves.
TOLERANCE_US = 200
FOLDER = f"event_representations_v2/stacked_histogram_dt=50_nbins={BINS}"
LABELS = "labels_v2/labels.npz"
#: File -> data set, and side in sensor px of a cell: of 2x2 px RVT keeps one.
FRAMES = {"event_representations.h5": ("gen1", 1)}
FRAMES |= {"event_representations_ds2_nearest.h5": ("1mpx", 2)}
#: What h5py and numpy raise for damaged files.
DAMAGE: tuple[type[Exception], ...] = (OSError, LookupError, EOFError, RuntimeError, BadZipFile)
DAMAGE += (ValueError, AttributeError, TypeError)
assert hdf5plugin  # its import teaches HDF5 to read Blosc


class Sequence(NamedTuple):
    """What RVT keeps of a recording.

    `frame_us`: where frames end, int64 [N]; `label_us` and `frame_of_label`: time and frame of
    every label time, int64 [L]; `boxes`: BOX [n].
    """

    frame_us: np.ndarray
    label_us: np.ndarray
    frame_of_label: np.ndarray
    boxes: np.ndarray


def list_sequences(root: str | Path) -> list[Recording]:
    """The sequences of {train,val,test}/NAME/ below root, as recordings of frames and labels.

    Raises ValueError for a tree that is not RVT's, of two data sets, and for a sequence without
    frames or labels.
    """
    root, found = Path(root), []
    for split in SPLITS:
        for folder in visible(root / split, "*") if (root / split).is_dir() else ():
            if not folder.is_dir():
                continue
            frames = [folder / FOLDER / name for name in FRAMES]
            there = [path for path in frames if path.is_file()]
            if len(there) != 1 or not (folder / LABELS).is_file():
                expected = f"expected {FOLDER}/{' or '.join(FRAMES)} and {LABELS}"
                raise ValueError(f"{folder}: is no sequence of RVT's, {expected}")
            found.append(Recording(folder.name, split, there[0], folder / LABELS))
    if not found:
        expected = f"expected {{{','.join(SPLITS)}}}/NAME/{FOLDER}"
        raise ValueError(f"{root}: holds no sequences of RVT's, {expected}")
    if len({recording.dat.name for recording in found}) > 1:
        raise ValueError(f"{root}: holds sequences of Gen1 and of 1 Mpx, expected one of them")
    return found


def settings_of(
    recordings: Iterable[Recording], time_steps: int
) -> tuple[HistogramSettings, DatasetSpec]:
    """What a cache of these sequences holds, in time steps of 50 ms."""
    name, cell = FRAMES[next(iter(recordings)).dat.name]
    spec = DATASETS[name]
    settings = HistogramSettings(
        window_us=FRAME_US * time_steps,
        time_steps=time_steps,
        representation="rvt",
        downsample=cell,  # type: ignore[arg-type]
        height=spec.height,
        width=spec.width,
    )
    return settings, spec


def import_sequence(
    recording: Recording, path: Path, settings: HistogramSettings, dataset: DatasetSpec
) -> Report:
    """Write the cache file of one sequence: a sample at every label time.

    Steps before its first frame are empty. Raises ValueError for what RVT would not have written,
    and for frames that do not touch where several make a sample.
    """
    assert recording.boxes is not None
    sequence = read_sequence(recording, dataset)
    steps = settings.time_steps
    refuse_gaps(sequence, steps, recording.dat)
    tallies = []
    content = sources_of(recording), sequence.label_us, sequence.boxes, dataset
    with (
        open_frames(recording.dat, len(sequence.frame_us), settings) as data,
        create_cache(path, settings, *content) as frames,
    ):
        for row, last in enumerate(sequence.frame_of_label.tolist()):
            sample = np.zeros(settings.frame_shape, np.uint8)
            summed = read_steps(data, max(last + 1 - steps, 0), last + 1, recording.dat)
            sample[steps - len(summed) :] = summed
            write_sample(frames, row, sample)
            tallies.append(EventTally(counted=int(sample.sum())))
        report = report_of(tallies, events=sum(tally.counted for tally in tallies))
        write_report(frames.file, report)
    return report


def read_sequence(recording: Recording, dataset: DatasetSpec) -> Sequence:
    """Times and labels of a sequence, checked against each other."""
    assert recording.boxes is not None
    folder, labels_path = recording.dat.parent, recording.boxes
    frame_us = read_times(folder / "timestamps_us.npy")
    label_us = read_times(labels_path.parent / "timestamps_us.npy")
    of_label = read_times(folder / "objframe_idx_2_repr_idx.npy")
    with reading(labels_path), np.load(labels_path, allow_pickle=False) as arrays:
        stored, first = arrays["labels"], arrays["objframe_idx_2_label_idx"]
    boxes = as_boxes(stored, str(labels_path))
    if not len(label_us) == len(of_label) == len(first):
        found = f"{len(label_us)} label times, {len(of_label)} frames and {len(first)} of boxes"
        raise ValueError(f"{labels_path}: {found}, expected one of each")
    if len(of_label) and (of_label[-1] >= len(frame_us) or of_label[0] < 0):
        found = f"names frame {of_label[-1]} of {len(frame_us)}"
        raise ValueError(f"{folder}: {found}, expected frames that are there")
    if not np.array_equal(frame_us[of_label], label_us):
        raise ValueError(f"{labels_path}: label times differ from those of their frames")
    counts = np.diff(np.append(first, len(boxes)))
    if len(first) and (first[0] != 0 or counts.min() < 0):
        raise ValueError(f"{labels_path}: boxes of a label time begin before those of the last")
    boxes["t"] = np.repeat(label_us, counts)
    return Sequence(frame_us, label_us, of_label, dataset.classify(boxes, str(labels_path)))


def read_times(path: Path) -> np.ndarray:
    """Times or places, int64 [n], that ascend."""
    with reading(path):
        values = np.load(path, allow_pickle=False)
    if values.ndim != 1 or values.dtype.kind not in "iu" or np.any(np.diff(values) <= 0):
        found = f"{values.dtype} {list(values.shape)}"
        raise ValueError(f"{path}: holds {found}, expected ascending whole numbers")
    return values.astype(np.int64)


def refuse_gaps(sequence: Sequence, time_steps: int, path: Path) -> None:
    """ValueError if frames that would make one sample do not touch."""
    apart_us = np.diff(sequence.frame_us)
    for last in sequence.frame_of_label.tolist():
        for frame in range(max(last + 1 - time_steps, 0), last):
            if abs(apart_us[frame] - FRAME_US) > TOLERANCE_US:
                found = f"frames {frame} and {frame + 1} end {apart_us[frame] / 1e3:g} ms apart"
                expected = f"expected {FRAME_US / 1e3:g} ms for more than one time step"
                raise ValueError(f"{path}: {found}, {expected}: use --time-steps 1")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn damage that is met inside the block into one sentence."""
    try:
        yield
    except DAMAGE as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read ({reason}), expected a file of RVT's") from None


@contextmanager
def open_frames(path: Path, count: int, settings: HistogramSettings) -> Iterator[h5py.Dataset]:
    """The frames of a sequence, uint8 [count, 20, H, W]; ValueError for others."""
    with reading(path):
        file = h5py.File(path, "r", locking=False)
    with file:
        with reading(path):
            data = file["data"]
        expected = (count, 2 * BINS, *settings.frame_shape[2:])
        if data.shape != expected or data.dtype != np.uint8:
            found = f"{data.dtype} {list(data.shape)}"
            raise ValueError(f"{path}: holds {found}, expected uint8 {list(expected)}")
        yield data


def read_steps(data: h5py.Dataset, first: int, end: int, path: Path) -> np.ndarray:
    """Frames first to end - 1 as time steps, uint8 [n, 2, H, W]: the ten bins of each summed."""
    with reading(path):
        bins = data[first:end].reshape(end - first, 2, BINS, *data.shape[2:])
    return np.minimum(bins.sum(2, dtype=np.uint16), MAX_COUNT).astype(np.uint8)
