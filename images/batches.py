"""An image set as a network reads it: pictures in batches, their boxes in network px."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from images.augment import Sample
from images.coco import ImageSet, read_picture
from images.geometry import STRIDE, Placing, Size, batch_shapes, load_size


@dataclass(frozen=True)
class Batch:
    """Pictures uint8 [B, 3, H, W], RGB, and their labels.

    targets: float32 [M, 6], rows (picture in the batch, class, x1, y1, x2, y2 in network px).
    numbers: the pictures' ids; placings: where each lies in its canvas, None where it was moved.
    """

    pictures: torch.Tensor
    targets: torch.Tensor
    numbers: tuple[int, ...]
    placings: tuple[Placing | None, ...]
    time_steps: int = 1

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        pictures = self.pictures.to(device, non_blocking=non_blocking)
        targets = self.targets.to(device, non_blocking=non_blocking)
        return replace(self, pictures=pictures, targets=targets)

    def network_input(self) -> torch.Tensor:
        """float32 [T, B, 3, H, W] in [0, 1]: the same pictures in every step, stored once."""
        return (self.pictures.float() / 255).expand(self.time_steps, *self.pictures.shape)

    def pin_memory(self) -> "Batch":
        """Called by DataLoader(pin_memory=True)."""
        pictures, targets = self.pictures.pin_memory(), self.targets.pin_memory()
        return replace(self, pictures=pictures, targets=targets)


def placed(hw: Size, side: int, canvas: Size) -> Placing:
    """A picture whose longer side becomes `side`, in the middle of a canvas."""
    scaled = load_size(hw, side)
    top, left = (round((a - b) / 2 - 0.1) for a, b in zip(canvas, scaled, strict=True))
    return Placing(hw, scaled, (top, left), canvas)


class ToScore(Dataset[Batch]):
    """Batches of an image set to be scored: pictures of like shape together.

    side: px of the longer side. square: every canvas is a square of `side`, rounded up to strides;
    else each batch has the smallest that holds its pictures, with a border of half a stride.
    """

    def __init__(
        self,
        images: ImageSet,
        side: int,
        batch_size: int,
        square: bool = False,
        time_steps: int = 1,
    ) -> None:
        self.images, self.side, self.time_steps = images, side, time_steps
        sizes = np.array([picture.hw for picture in images.pictures])
        order, shapes = batch_shapes(sizes, batch_size, side)
        if square:
            shapes[:] = -(-side // STRIDE) * STRIDE
        cuts = range(0, len(order), batch_size)
        self.batches = [order[first : first + batch_size].tolist() for first in cuts]
        self.canvases: list[Size] = [(int(h), int(w)) for h, w in shapes]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        samples = [self.sample(k, self.canvases[index]) for k in self.batches[index]]
        return collate(samples, self.time_steps)

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def sample(self, index: int, canvas: Size) -> "OnCanvas":
        """Raises ValueError for a picture that cannot be read or is of another size."""
        picture = self.images.pictures[index]
        pixels = read_picture(picture.path)
        if pixels.shape[:2] != picture.hw:
            found = "{}x{} px".format(*pixels.shape[:2])
            expected = "{}x{}, as the annotations say".format(*picture.hw)
            raise ValueError(f"{picture.path}: is of {found}, expected {expected}")
        placing = placed(picture.hw, self.side, canvas)
        boxes = placing.boxes_in(picture.boxes[~picture.crowd])
        classes = picture.classes[~picture.crowd]
        return OnCanvas(placing.paint(pixels), classes, boxes, picture.id, placing)


@dataclass(frozen=True)
class OnCanvas:
    """A picture on its canvas, uint8 [H, W, 3], and the objects in it, in px of the canvas."""

    picture: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    number: int
    placing: Placing | None = None


def on_canvas(sample: Sample, number: int) -> OnCanvas:
    """An augmented sample, which lies nowhere in particular any more."""
    return OnCanvas(sample.picture, sample.classes, sample.boxes, number)


def collate(samples: Sequence[OnCanvas], time_steps: int = 1) -> Batch:
    """Stack samples of one canvas; their objects are numbered by picture."""
    pictures = torch.from_numpy(np.stack([sample.picture for sample in samples]))
    rows = [
        np.column_stack([np.full(len(sample.boxes), k), sample.classes, sample.boxes])
        for k, sample in enumerate(samples)
    ]
    targets = torch.from_numpy(np.concatenate(rows).astype(np.float32))
    if get_worker_info() is not None:  # a thread would do it later, and lose the error
        pictures.share_memory_()
        targets.share_memory_()
    return Batch(
        pictures.permute(0, 3, 1, 2),  # as they lie in memory: channels last
        targets,
        tuple(sample.number for sample in samples),
        tuple(sample.placing for sample in samples),
        time_steps,
    )
