"""Cache -> samples -> batches, at network size, for training and for scoring."""

import multiprocessing
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from gen1.ending import prepare_worker
from gen1.labels import clip_boxes, refuse_unknown_classes
from gen1.protocol import join
from preprocessing.augment import AugmentConfig, augment
from preprocessing.cache import (
    Manifest,
    describe_difference,
    difference_of,
    open_cache,
    read_header,
    read_manifest,
    read_sample,
)
from preprocessing.geometry import Geometry, Letterbox
from preprocessing.histogram import HistogramSettings
from preprocessing.inputs import check_representation, network_frames, network_input

#: Cache files that a process holds open; the least recent one is closed.
OPEN_FILES = 128


@dataclass(frozen=True)
class Sample:
    """What one label time asks of the network.

    frames: uint8 [T, C, H, W] at network size; targets: float32 [n, 5] rows (class, x1, y1, x2,
    y2) in network px.
    """

    frames: torch.Tensor
    targets: torch.Tensor
    recording: str
    t_us: int


@dataclass(frozen=True)
class Batch:
    """B samples.

    frames: uint8 [T, B, C, H, W]; targets: float32 [M, 6] rows (image, class, x1, y1, x2, y2) in
    network px, image counting from 0 in this batch; times_us: int64 [B].
    """

    frames: torch.Tensor
    targets: torch.Tensor
    recordings: tuple[str, ...]
    times_us: torch.Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The batch with frames and targets on a device; names and times stay on the host."""
        frames = self.frames.to(device, non_blocking=non_blocking)
        targets = self.targets.to(device, non_blocking=non_blocking)
        return replace(self, frames=frames, targets=targets)

    def network_input(self) -> torch.Tensor:
        """float32 [T, B, C, H, W]: counts as they are, three-channel frames in [0, 1]."""
        return network_input(self.frames)

    def pin_memory(self) -> "Batch":
        """Called by DataLoader(pin_memory=True)."""
        return replace(self, frames=self.frames.pin_memory(), targets=self.targets.pin_memory())


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples along a new axis 1 and number their targets by image."""
    targets = [
        torch.cat([torch.full((len(sample.targets), 1), float(image)), sample.targets], dim=1)
        for image, sample in enumerate(samples)
    ]
    frames, all_targets = torch.stack([sample.frames for sample in samples], 1), torch.cat(targets)
    times_us = torch.tensor([sample.t_us for sample in samples], dtype=torch.int64)
    share_in_worker(frames, all_targets, times_us)
    return Batch(frames, all_targets, tuple(sample.recording for sample in samples), times_us)


def share_in_worker(*tensors: torch.Tensor) -> None:
    """Move them to shared memory now: torch's own thread would do it later, and lose the error."""
    if get_worker_info() is not None:
        for tensor in tensors:
            tensor.share_memory_()


class Loader(DataLoader[Any]):
    """The named batches of samples in turn, read by `workers` processes that leave with this one.

    stack: samples -> batch. Raises OSError where they cannot be started.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batches: list[list[int]],
        workers: int,
        stack: Callable[[Sequence[Any]], Any] = collate,
        **options: Any,
    ) -> None:
        super().__init__(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=stack,
            worker_init_fn=prepare_worker,
            **options,
        )

    def __iter__(self) -> Any:
        try:
            if self.num_workers:
                multiprocessing.Queue().close()  # torch's own failure leaves a traceback
            return super().__iter__()
        except OSError as error:
            found = f"{self.num_workers} workers cannot be started ({error.strerror})"
            remedy = "lower workers, or raise the shared memory (docker run --shm-size)"
            raise ChildProcessError(f"{found}: {remedy}") from None


class HistogramDataset(Dataset[Sample]):
    """Every sample of one split of a cache, in the order of recordings and time.

    Its targets are the labels of its time or, in a cache of strides, of the nearest label time
    within half a stride; a warning counts labels without a sample. They are clipped to the frame;
    a box without area there is left out, as where `keep(boxes)` (BOX [n] -> bool [n], e.g. an
    EvalProtocol's) is False. augment draws from (seed, epoch, index), whatever the number of
    workers; augment_alike: the same for all samples of a recording in an epoch. labelled_only: none
    without a label time. `input` is one of INPUTS. in_memory decompresses the split once. `failed`:
    recordings that preprocessing could not use -> reason, with a warning. Raises ValueError for a
    cache unfinished, damaged, unlike `settings` or of other `classes`, and for a class beyond
    `num_classes`.
    """

    def __init__(
        self,
        cache_dir: Path | str,
        split: str,
        geometry: Geometry | Letterbox,
        augment: AugmentConfig | None = None,
        *,
        seed: int = 0,
        settings: HistogramSettings | None = None,
        keep: Callable[[np.ndarray], np.ndarray] | None = None,
        input: str = "histogram",
        in_memory: bool = False,
        classes: Sequence[str] | None = None,
        num_classes: int | None = None,
        augment_alike: bool = False,
        labelled_only: bool = False,
    ) -> None:
        self.geometry = geometry
        self._augment, self._seed, self._keep = augment, seed, keep
        self._input, self._alike = input, augment_alike
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._open_in_process = 0
        cache_dir = Path(cache_dir)
        manifest = read_manifest(cache_dir, finished=True)
        if settings and (difference := describe_difference(manifest.settings, settings)):
            raise ValueError(f"{cache_dir}: cache made with {difference}")
        self.settings, self.recordings = manifest.settings, _names(cache_dir, manifest, split)
        self.spec = manifest.dataset
        _refuse_other_classes(cache_dir, self.spec.classes, classes)
        class_names = self.spec.classes[:num_classes]
        self.failed = _failed_recordings(cache_dir, manifest, split)
        _check_geometry(cache_dir, self.settings, geometry)
        check_representation(self.settings, input, str(cache_dir))
        self._paths = [cache_dir / split / f"{name}.h5" for name in self.recordings]
        self.name = f"{cache_dir}: split {split}"
        self._labels: dict[str, np.ndarray] = {}
        self._times_us: dict[str, np.ndarray] = {}
        self._still_us: dict[str, np.ndarray] = {}
        index = [np.empty((0, 4), np.int64)]  # recording, row, sample time, label time
        self.n_labels = self.n_unsampled = 0
        for i, (name, path) in enumerate(zip(self.recordings, self._paths, strict=True)):
            times_us, label_us = self._read_times(name, path, class_names)
            rows = np.arange(len(times_us))
            index.append(np.stack([np.full_like(rows, i), rows, times_us, label_us], axis=1))
        self._index = np.concatenate(index)
        if labelled_only:
            self._index = self._index[self.labelled]
        if self.n_unsampled:
            found = f"{self.n_unsampled} of {self.n_labels} labels have no sample"
            warnings.warn(f"{self.name}: {found} ({self.settings.sampling})", stacklevel=2)
        self._frames = [_every_sample(path) for path in self._paths] if in_memory else []

    def _read_times(
        self, name: str, path: Path, class_names: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Times of a recording's samples and the label time of each, int64 [n]; keeps its labels.

        Raises ValueError for a file unlike the others and for a class that is none of the names.
        """
        with open_cache(path) as file:
            header = read_header(file)
            if difference := difference_of(header, self.settings, self.spec):
                raise ValueError(f"{path}: {difference}, as the other files of the cache")
            labels, times_us = file["labels"][:], file["times_us"][:]
            if "still_us" in file:
                self._still_us[name] = file["still_us"][:]
        made_of = Path(header.sources[-1].directory, header.sources[-1].name)
        refuse_unknown_classes(labels, f"{made_of} (in {path})", class_names)
        label_us = _joined_labels(times_us, labels, self.settings.every_us)
        self._labels[name], self._times_us[name] = labels, times_us
        self.n_labels += len(labels)
        self.n_unsampled += int(np.sum(~np.isin(labels["t"], label_us)))
        return times_us, label_us

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Sample:
        recording, row, t_us, _ = self._index[index].tolist()
        name = self.recordings[recording]
        frames = self._read(recording, row)
        classes, boxes_xyxy = self._targets(index)
        if self._augment is not None:
            drawn_for = recording if self._alike else index % len(self)
            rng = np.random.default_rng([self._seed, int(self._epoch), drawn_for])
            cell = self.settings.downsample  # frames and boxes move together in px of the frame
            frames, moved, kept = augment(frames, boxes_xyxy / cell, self._augment, rng)
            classes, boxes_xyxy = classes[kept], moved[kept] * cell
        frames = network_frames(frames, self.geometry, self._input)
        boxes_xyxy = self.geometry.boxes_to_network(boxes_xyxy)
        targets = np.concatenate([classes[:, None], boxes_xyxy], axis=1)
        return Sample(torch.from_numpy(frames), torch.from_numpy(targets), name, t_us)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None, "_open_in_process": 0}

    def set_epoch(self, epoch: int) -> None:
        """Draw other augmentations from now on; workers that already run see it too."""
        self._epoch.fill_(epoch)

    @property
    def label_times(self) -> list[tuple[str, int]]:
        """Recording and time in us of every sample, in order."""
        return [(self.recordings[i], t_us) for i, _, t_us, _ in self._index.tolist()]

    def times_us(self, name: str) -> np.ndarray:
        """Times of the samples of a recording, int64 [n], ascending."""
        return self._times_us[name]

    @property
    def labelled(self) -> np.ndarray:
        """Which samples a label time is joined to, bool [n]; of the others nothing is known."""
        which = self._index[:, 0]
        parts = [
            np.isin(self._index[which == i, 3], self._labels[name]["t"])
            for i, name in enumerate(self.recordings)
        ]
        return np.concatenate(parts)

    def label_us(self, index: int) -> int:
        """The label time that a sample is joined to, its own time if there is none."""
        return int(self._index[index, 3])

    def histogram(self, index: int) -> np.ndarray:
        """The cached frames of a sample as they are, uint8 [T, 2, H, W]."""
        recording, row, *_ = self._index[index].tolist()
        return self._read(recording, row)

    def labels(self, name: str) -> np.ndarray:
        """All boxes of a recording as labelled, BOX [n] in sensor px, for scoring."""
        return self._labels[name].copy()

    def still_us(self, name: str) -> np.ndarray | None:
        """For how long the object of each of `labels(name)` has stood still, int64 [n]; or None."""
        return self._still_us.get(name)

    def _read(self, recording: int, row: int) -> np.ndarray:
        """Frames of one sample, uint8 [T, 2, H, W], before padding."""
        if self._frames:
            return self._frames[recording][row]
        if self._open_in_process != os.getpid():  # HDF5 handles must not cross a fork
            self._open, self._open_in_process = lru_cache(OPEN_FILES)(open_cache), os.getpid()
        return read_sample(self._open(self._paths[recording]), row)

    def _targets(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Classes float32 [n] and corners float32 [n, 4] in sensor px of a sample's boxes."""
        recording, _, _, label_us = self._index[index].tolist()
        boxes = self._labels[self.recordings[recording]]
        boxes = boxes[boxes["t"] == label_us]
        if self._keep is not None:
            boxes = boxes[self._keep(boxes)]
        boxes = clip_boxes(boxes, self.settings.height, self.settings.width)
        boxes = boxes[(boxes["w"] > 0) & (boxes["h"] > 0)]
        x, y, w, h = (boxes[side] for side in "xywh")
        corners = np.stack([x, y, x + w, y + h], axis=1)
        return boxes["class_id"].astype(np.float32), corners


def _every_sample(path: Path) -> np.ndarray:
    """All histograms of a recording, uint8 [n, T, C, H, W]."""
    with open_cache(path) as file:
        return np.array([read_sample(file, row) for row in range(len(file["frames"]))], np.uint8)


def _joined_labels(times_us: np.ndarray, labels: np.ndarray, every_us: int) -> np.ndarray:
    """The label time of every sample time, int64 [n]; where none is joined, the sample's own."""
    label_us = times_us.copy()
    if every_us:
        labelled_us = np.unique(labels["t"])
        sample = join(labelled_us, times_us, every_us // 2)
        label_us[sample[sample >= 0]] = labelled_us[sample >= 0]
    return label_us


def _names(cache_dir: Path, manifest: Manifest, split: str) -> tuple[str, ...]:
    """Recordings of a split; raises ValueError if there are none."""
    names = tuple(sorted(manifest.recordings.get(split, ())))
    if not names:
        found = f"no recordings of split {split!r}"
        raise ValueError(f"{cache_dir}: {found}, expected one of {sorted(manifest.recordings)}")
    return names


def _failed_recordings(cache_dir: Path, manifest: Manifest, split: str) -> dict[str, str]:
    """Name -> reason of the recordings that are not in a split; warns if there are any."""
    failed = {
        name.removeprefix(f"{split}/"): reason
        for name, reason in manifest.failed.items()
        if name.startswith(f"{split}/")
    }
    if failed:
        total = len(failed) + len(manifest.recordings[split])
        found = f"{len(failed)} of {total} recordings of {split} could not be preprocessed"
        warnings.warn(f"{cache_dir}: {found}: {', '.join(failed)}", stacklevel=3)
    return failed


def _refuse_other_classes(
    cache_dir: Path, found: Sequence[str], expected: Sequence[str] | None
) -> None:
    if expected is not None and tuple(found) != tuple(expected):
        classes = f"cache of classes {', '.join(found)}"
        raise ValueError(f"{cache_dir}: {classes}, expected {', '.join(expected)}")


def _check_geometry(
    cache_dir: Path, settings: HistogramSettings, geometry: Geometry | Letterbox
) -> None:
    found = (settings.height, settings.width, settings.downsample)
    expected = (geometry.height, geometry.width, geometry.downsample)
    if found != expected:
        text = "sensor {}x{} px with downsample {}"
        raise ValueError(f"{cache_dir}: {text.format(*found)}, expected {text.format(*expected)}")
