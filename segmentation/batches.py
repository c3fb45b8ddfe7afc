"""Pictures with masks -> samples -> batches, the same interface as for events."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch.utils.data import Dataset

from preprocessing.dataset import share_in_worker
from segmentation.framing import (
    MEAN,
    SPREAD,
    FramingConfig,
    Size,
    drawn,
    padded,
    resized,
    short_side,
)
from segmentation.pictures import PictureSet

#: The networks divide what they read by no more.
STRIDE = 32


@dataclass(frozen=True)
class PictureSample:
    """A picture uint8 [H, W, 3], RGB, and its classes uint8 [H, W], IGNORED among them."""

    picture: np.ndarray
    mask: np.ndarray
    name: str


@dataclass(frozen=True)
class PictureBatch:
    """B pictures on canvases of one size: pictures uint8 [B, 3, H, W], masks uint8 [B, H, W].

    sizes: height and width of each in the upper left of its canvas, in px. centred: the network
    reads levels less ImageNet's mean by its spread, else in [0, 1].
    """

    pictures: torch.Tensor
    masks: torch.Tensor
    names: tuple[str, ...]
    sizes: tuple[Size, ...]
    time_steps: int = 1
    centred: bool = False

    @property
    def targets(self) -> torch.Tensor:
        """int64 [B, H, W]: the class of every pixel, IGNORED where there is none."""
        return self.masks.long()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PictureBatch":
        """The batch with pictures and masks on a device."""
        pictures = self.pictures.to(device, non_blocking=non_blocking)
        masks = self.masks.to(device, non_blocking=non_blocking)
        return replace(self, pictures=pictures, masks=masks)

    def network_input(self) -> torch.Tensor:
        """float32 [T, B, 3, H, W]: the same pictures in every step, stored once."""
        x = self.pictures.float()
        if self.centred:
            mean, spread = (x.new_tensor(values)[:, None, None] for values in (MEAN, SPREAD))
            x = (x - mean) / spread
        else:
            x = x / 255
        return x.expand(self.time_steps, *x.shape)

    def pin_memory(self) -> "PictureBatch":
        """Called by DataLoader(pin_memory=True)."""
        return replace(self, pictures=self.pictures.pin_memory(), masks=self.masks.pin_memory())


def canvas_of(size: Size) -> Size:
    """The smallest canvas of strides that holds a size."""
    height, width = (-(-side // STRIDE) * STRIDE for side in size)
    return height, width


def stack_pictures(
    samples: Sequence[PictureSample], time_steps: int = 1, centred: bool = False
) -> PictureBatch:
    """Samples on the smallest canvas of strides that holds them all."""
    sizes = [(sample.mask.shape[0], sample.mask.shape[1]) for sample in samples]
    canvas = canvas_of(tuple(map(max, zip(*sizes, strict=True))))
    canvases = [padded(sample.picture, sample.mask, canvas) for sample in samples]
    pictures = torch.from_numpy(np.stack([p.transpose(2, 0, 1) for p, _ in canvases]))
    masks = torch.from_numpy(np.stack([mask for _, mask in canvases]))
    share_in_worker(pictures, masks)
    names = tuple(sample.name for sample in samples)
    return PictureBatch(pictures, masks, names, tuple(sizes), time_steps, centred)


class PicturesToLearn(Dataset[PictureSample]):
    """Crops of the pictures of a set, drawn from (seed, epoch, index)."""

    def __init__(
        self, pictures: PictureSet, config: FramingConfig, seed: int = 0, time_steps: int = 1
    ) -> None:
        self.pictures, self.config, self._seed = pictures, config, seed
        self.spec, self.name = pictures.spec, pictures.name
        self.stack = partial(stack_pictures, time_steps=time_steps, centred=True)
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.pictures.pairs)

    def __getitem__(self, index: int) -> PictureSample:
        rng = np.random.default_rng([self._seed, int(self._epoch), index % len(self)])
        picture, mask = drawn(*self.pictures.read(index), self.config, rng)
        return PictureSample(picture, mask, self.pictures.pairs[index][0].stem)

    def set_epoch(self, epoch: int) -> None:
        """Draw other crops from now on; workers that already run see it too."""
        self._epoch.fill_(epoch)


class PicturesToScore(Dataset[PictureSample]):
    """Whole pictures of a set whose shorter side is `side` px; 0 leaves them as they are.

    time_steps: of the network, which is shown the same picture in each.
    """

    def __init__(self, pictures: PictureSet, side: int = 0, time_steps: int = 1) -> None:
        if side < 0:
            raise ValueError(f"side is {side} px, expected 0 (as they are) or more")
        self.pictures, self.side = pictures, side
        self.spec, self.name = pictures.spec, pictures.name
        self.stack = partial(stack_pictures, time_steps=time_steps, centred=True)

    def __len__(self) -> int:
        return len(self.pictures.pairs)

    def canvas(self, index: int) -> Size:
        """Height and width in px that a sample takes up in a batch."""
        size = self.pictures.size(index)
        return canvas_of(short_side(size, self.side) if self.side else size)

    def __getitem__(self, index: int) -> PictureSample:
        picture, mask = self.pictures.read(index)
        if self.side:
            hw = short_side((mask.shape[0], mask.shape[1]), self.side)
            picture, mask = resized(picture, mask, hw)
        return PictureSample(picture, mask, self.pictures.pairs[index][0].stem)

    def mask(self, index: int) -> np.ndarray:
        """The mask as labelled, uint8 [H, W] at the picture's own size, for scoring."""
        return self.pictures.mask(index)

    def picture(self, index: int) -> np.ndarray:
        """The picture itself, RGB uint8 [H, W, 3], of its own size."""
        return self.pictures.read(index)[0]

    def title(self, index: int) -> str:
        """Which picture it is, for people."""
        return self.pictures.pairs[index][0].name

    def placed(self, batch: PictureBatch) -> tuple[Size, list[Size]]:
        """Size at which the maps of a batch are read, and of that the part of each sample in px."""
        height, width = batch.masks.shape[1:]
        return (height, width), [*batch.sizes]

    def checksum(self) -> int:
        """CRC-32 of the names and bytes of all masks: tells which were scored."""
        found = 0
        for _, path in self.pictures.pairs:
            found = zlib.crc32(path.read_bytes(), zlib.crc32(path.stem.encode(), found))
        return found
