"""Cache of events and masks beside the recordings -> samples -> batches, at network size."""

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from evaluation.pictures import event_image
from gen1.masks import MASKS_FILE, MASKS_SUFFIX, mask_files, masks_in
from gen1.protocol import join
from gen1.spec import counted, listed
from preprocessing.augment import AugmentConfig, draw, drop_events, move_frames
from preprocessing.cache import read_manifest
from preprocessing.dataset import HistogramDataset, share_in_worker
from preprocessing.geometry import Geometry
from preprocessing.histogram import HistogramSettings
from preprocessing.inputs import network_frames, network_input
from segmentation.framing import Size
from segmentation.masks import downsampled, read_mask
from segmentation.spec import IGNORED, MaskSpec, read_mask_spec

#: Names that a sentence shows.
HINT = "`python -m preprocessing --keep masks` makes samples at the times of masks"


@dataclass(frozen=True)
class MaskSample:
    """What one mask asks of the network.

    frames: uint8 [T, C, H, W]; mask: uint8 [H, W], classes and IGNORED; both at network size.
    """

    frames: torch.Tensor
    mask: torch.Tensor
    recording: str
    t_us: int


@dataclass(frozen=True)
class MaskBatch:
    """B samples: frames uint8 [T, B, C, H, W], masks uint8 [B, H, W], times_us int64 [B]."""

    frames: torch.Tensor
    masks: torch.Tensor
    recordings: tuple[str, ...]
    times_us: torch.Tensor

    @property
    def targets(self) -> torch.Tensor:
        """int64 [B, H, W]: the class of every pixel, IGNORED where there is none."""
        return self.masks.long()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "MaskBatch":
        """The batch with frames and masks on a device; names and times stay on the host."""
        frames = self.frames.to(device, non_blocking=non_blocking)
        return replace(self, frames=frames, masks=self.masks.to(device, non_blocking=non_blocking))

    def network_input(self) -> torch.Tensor:
        """float32 [T, B, C, H, W]: counts as they are, three-channel frames in [0, 1]."""
        return network_input(self.frames)

    def pin_memory(self) -> "MaskBatch":
        """Called by DataLoader(pin_memory=True)."""
        return replace(self, frames=self.frames.pin_memory(), masks=self.masks.pin_memory())


def stack(samples: Sequence[MaskSample]) -> MaskBatch:
    """Samples along a new axis; for preprocessing.dataset.Loader(stack=...)."""
    frames = torch.stack([sample.frames for sample in samples], 1)
    masks = torch.stack([sample.mask for sample in samples])
    times_us = torch.tensor([sample.t_us for sample in samples], dtype=torch.int64)
    share_in_worker(frames, masks, times_us)
    return MaskBatch(frames, masks, tuple(sample.recording for sample in samples), times_us)


class Pair(NamedTuple):
    """A sample of the cache, by its number, and its mask."""

    row: int
    path: Path
    recording: str
    t_us: int


class MaskDataset(Dataset[MaskSample]):
    """Every sample of one split of a cache that has a mask, in the order of recordings and time.

    masks: the folder with NAME_masks/TIME.png, in splits or not, and masks.yaml (or `spec`). A
    mask belongs to the sample of its time or, in a cache of strides, to the nearest within half a
    stride. Warns of samples without masks, which are left out, and of masks without samples.
    augment draws from (seed, epoch, index). Raises ValueError for what HistogramDataset refuses,
    for masks of no recording, no masks at all, and files that read_mask refuses.
    """

    def __init__(
        self,
        cache_dir: Path | str,
        masks: Path | str,
        split: str,
        geometry: Geometry,
        augment: AugmentConfig | None = None,
        *,
        spec: MaskSpec | None = None,
        seed: int = 0,
        settings: HistogramSettings | None = None,
        input: str = "histogram",
        in_memory: bool = False,
    ) -> None:
        if not isinstance(geometry, Geometry):
            found = f"{type(geometry).__name__} was given"
            raise ValueError(f"{found}, expected a Geometry: masks are not interpolated")
        self.events = HistogramDataset(
            cache_dir, split, geometry, settings=settings, input=input, in_memory=in_memory
        )
        self.geometry, self.settings, self.input = geometry, self.events.settings, input
        self._augment, self._seed = augment, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.folder = folder_of(Path(masks), split)
        self.spec = spec or spec_of_masks(Path(masks), self.folder)
        self.name = self.events.name
        flat, of_splits = self.folder == Path(masks), read_manifest(Path(cache_dir)).recordings
        self._elsewhere = {name for names in of_splits.values() for name in names if flat}
        self._pairs: list[Pair] = []
        without, unsampled = self._pair()
        self.n_unmasked, self.n_unsampled = len(without), unsampled
        self._tell(without)

    @property
    def sensor_hw(self) -> tuple[int, int]:
        """Height and width of a mask file in px."""
        return self.settings.height, self.settings.width

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> MaskSample:
        pair = self._pairs[index]
        frames = self.events.histogram(pair.row)
        mask = downsampled(self.mask(index), self.settings.downsample)
        if self._augment is not None:
            rng = np.random.default_rng([self._seed, int(self._epoch), index % len(self)])
            motion, drop = draw(self._augment, mask.shape[0], mask.shape[1], rng)
            frames, mask = move_frames(frames, *motion), move_frames(mask, *motion, IGNORED)
            frames = drop_events(frames, drop, rng) if drop > 0 else frames
        frames = network_frames(frames, self.geometry, self.input)
        mask = self.geometry.fit(mask, IGNORED)
        arrays = torch.from_numpy(frames), torch.from_numpy(mask)
        return MaskSample(*arrays, pair.recording, pair.t_us)

    def set_epoch(self, epoch: int) -> None:
        """Draw other augmentations from now on; workers that already run see it too."""
        self._epoch.fill_(epoch)

    def mask(self, index: int) -> np.ndarray:
        """The mask of a sample as labelled, uint8 [H, W] at the sensor's size, for scoring."""
        return read_mask(self._pairs[index].path, self.spec, self.sensor_hw)

    @staticmethod
    def stack(samples: Sequence[MaskSample]) -> MaskBatch:
        return stack(samples)

    def picture(self, index: int) -> np.ndarray:
        """The events of a sample as a picture at the sensor's size, RGB uint8 [H, W, 3]."""
        events = event_image(self.events.histogram(self._pairs[index].row))
        factor = self.settings.downsample
        return events.repeat(factor, 0).repeat(factor, 1)

    def title(self, index: int) -> str:
        """Which sample it is, for people."""
        return f"{self._pairs[index].recording}, {self._pairs[index].t_us / 1e6:.2f} s"

    def canvas(self, _index: int) -> Size:
        """Height and width in px that a sample takes up in a batch: of all the same."""
        return self.geometry.network_hw

    def placed(self, batch: MaskBatch) -> tuple[Size, list[Size]]:
        """Size at which the maps of a batch are read, and of that the part of each sample in px."""
        factor = self.settings.downsample
        height, width = (side * factor for side in batch.masks.shape[1:])
        return (height, width), [self.sensor_hw] * len(batch.masks)

    def checksum(self) -> int:
        """CRC-32 of the names, times and bytes of all masks: tells which were scored."""
        found = 0
        for pair in self._pairs:
            found = zlib.crc32(f"{pair.recording} {pair.t_us}".encode(), found)
            found = zlib.crc32(pair.path.read_bytes(), found)
        return found

    @property
    def label_times(self) -> list[tuple[str, int]]:
        """Recording and time in us of every sample, in order."""
        return [(pair.recording, pair.t_us) for pair in self._pairs]

    def _pair(self) -> tuple[list[str], int]:
        """Find the mask of every sample; those without one, and how many masks have no sample."""
        without, unsampled, first = [], 0, 0
        reach_us = self.settings.every_us // 2
        for name in self.events.recordings:
            times_us = self.events.times_us(name)
            folder = self.folder / f"{name}{MASKS_SUFFIX}"
            files = mask_files(folder) if folder.is_dir() else {}
            joined = join(np.array([*files], np.int64), times_us, reach_us).tolist()
            mask_of = dict(zip(joined, files.values(), strict=True)) if files else {}
            if path := next(iter(files.values()), None):  # all of one are of one kind
                read_mask(path, self.spec, self.sensor_hw)
            for row, t_us in enumerate(times_us.tolist()):
                if row in mask_of:
                    self._pairs.append(Pair(first + row, mask_of[row], name, t_us))
                else:
                    without.append(f"{name} at {t_us} us")
            unsampled += joined.count(-1)
            first += len(times_us)
        return without, unsampled

    def _tell(self, without: Sequence[str]) -> None:
        """Warn of what has no partner; ValueError for masks of no recording, and for none."""
        known = {*self.events.recordings, *self.events.failed, *self._elsewhere}
        names = [path.name for path in masks_in(self.folder)]
        if lone := [n for n in names if n.removesuffix(MASKS_SUFFIX) not in known]:
            found = f"{counted(len(lone), 'folders')} of masks without a recording ({listed(lone)})"
            raise ValueError(f"{self.folder}: {found}, expected those of {self.events.name}")
        if not self._pairs:
            found = f"none of {counted(len(self.events), 'samples')} has a mask in {self.folder}"
            where = f"({counted(len(names), 'folders')} of masks, {self.n_unsampled} masks)"
            raise ValueError(f"{self.events.name}: {found} {where}, expected some: {HINT}")
        if self.n_unmasked:
            found = f"{self.n_unmasked} of {counted(len(self.events), 'samples')} have no mask"
            found = f"{found} and are left out ({listed(without)})"
            warnings.warn(f"{self.events.name}: {found}", stacklevel=3)
        if self.n_unsampled:
            total = self.n_unsampled + len(self._pairs)
            found = f"{self.n_unsampled} of {total} masks have no sample"
            sampling = f"{self.settings.sampling}; {HINT}"
            warnings.warn(f"{self.events.name}: {found} ({sampling})", stacklevel=3)


def folder_of(masks: Path, split: str) -> Path:
    """Where the masks of a split are; ValueError if there is no such folder."""
    folder = masks / split if (masks / split).is_dir() else masks
    if not folder.is_dir():
        expected = f"expected a folder of masks, NAME{MASKS_SUFFIX}/TIME.png"
        raise ValueError(f"{folder}: there is no such folder, {expected}")
    return folder


def spec_of_masks(masks: Path, folder: Path) -> MaskSpec:
    """The classes that the masks.yaml of a split or of the whole set names."""
    for path in (folder / MASKS_FILE, masks / MASKS_FILE):
        if path.is_file():
            return read_mask_spec(path)
    expected = f"expected {MASKS_FILE}, or the name of known classes"
    raise ValueError(f"{masks}: nothing says what the numbers of its masks mean, {expected}")
