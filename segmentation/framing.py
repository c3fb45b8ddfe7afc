"""What happens to a picture and its mask before a network reads them: resize, crop, flip.

Every function takes the numbers that are drawn, `drawn` draws them. Pictures are resized bilinearly
(antialiased where they shrink, as Pillow does), masks by nearest neighbour.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from segmentation.spec import IGNORED

Size = tuple[int, int]  # height, width in px
#: Mean and spread of ImageNet's red, green and blue, in levels of 255.
MEAN, SPREAD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
#: What is beside a picture: its mean colour.
BESIDE = (124, 116, 104)
#: Crops that are tried before the last one is taken.
TRIES = 10


@dataclass(frozen=True)
class FramingConfig:
    """How a picture becomes a training sample. Raises ValueError if impossible.

    Args:
        side: Shorter side that a scale of 1 means, in px.
        scale_min: Smallest scale of it, > 0.
        scale_max: Largest scale; drawn uniformly between the two.
        crop_height: Height of the sample in px, a multiple of 32.
        crop_width: Width of the sample in px, a multiple of 32.
        most_of_one: Crops with a larger share of one class are drawn again, in (0, 1].
        flip: Probability of mirroring left and right, in [0, 1].
    """

    side: int = 512
    scale_min: float = 0.5
    scale_max: float = 2.0
    crop_height: int = 512
    crop_width: int = 512
    most_of_one: float = 0.75
    flip: float = 0.5

    def __post_init__(self) -> None:
        crop = f"{self.crop_height}x{self.crop_width}"
        for is_so, found, expected in (
            (self.side < 1, f"side is {self.side}", "1 px or more"),
            (
                not 0 < self.scale_min <= self.scale_max,
                f"scale_min {self.scale_min} and scale_max {self.scale_max}",
                "0 < scale_min <= scale_max",
            ),
            (
                min(self.crop) < 32 or any(length % 32 for length in self.crop),
                f"a crop of {crop} px",
                "multiples of 32",
            ),
            (not 0 < self.most_of_one <= 1, f"most_of_one is {self.most_of_one}", "(0, 1]"),
            (not 0 <= self.flip <= 1, f"flip is {self.flip}", "0 to 1"),
        ):
            if is_so:
                raise ValueError(f"{found} was given, expected {expected}")

    @property
    def crop(self) -> Size:
        return self.crop_height, self.crop_width


def short_side(hw: Size, side: int) -> Size:
    """Size whose shorter side is `side`, the other rounded."""
    height, width = (max(1, round(length * side / min(hw))) for length in hw)
    return height, width


def resized(picture: np.ndarray, mask: np.ndarray, hw: Size) -> tuple[np.ndarray, np.ndarray]:
    """Picture uint8 [H, W, 3] and mask uint8 [H, W] at another size."""
    if mask.shape == hw:
        return picture, mask
    small = Image.fromarray(picture).resize(hw[::-1], Image.Resampling.BILINEAR)
    classes = Image.fromarray(mask).resize(hw[::-1], Image.Resampling.NEAREST)
    return np.asarray(small), np.asarray(classes)


def window(mask: np.ndarray, crop: Size, at: tuple[float, float]) -> tuple[slice, slice]:
    """Rows and columns of a crop; at: shares in [0, 1) of the room there is, down and right."""
    room = [max(0, side - length) for side, length in zip(mask.shape, crop, strict=True)]
    top, left = (int(share * (spare + 1)) for share, spare in zip(at, room, strict=True))
    return slice(top, top + crop[0]), slice(left, left + crop[1])


def largest_share(mask: np.ndarray) -> float:
    """Of the labelled pixels, the share of the commonest class; 0 without any."""
    counts = np.bincount(mask[mask != IGNORED], minlength=1)
    return float(counts.max() / max(1, counts.sum()))


def padded(picture: np.ndarray, mask: np.ndarray, hw: Size) -> tuple[np.ndarray, np.ndarray]:
    """Both in the upper left of a canvas: BESIDE and IGNORED beyond them."""
    height, width = mask.shape
    canvas = np.empty((*hw, 3), np.uint8)
    canvas[:] = BESIDE
    classes = np.full(hw, IGNORED, np.uint8)
    canvas[:height, :width], classes[:height, :width] = picture, mask
    return canvas, classes


def drawn(
    picture: np.ndarray, mask: np.ndarray, config: FramingConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A training sample of the crop's size; the inputs are not modified."""
    scale = rng.uniform(config.scale_min, config.scale_max)
    hw = short_side((mask.shape[0], mask.shape[1]), max(1, round(config.side * scale)))
    picture, mask = resized(picture, mask, hw)
    for _ in range(TRIES):
        rows, columns = window(mask, config.crop, (rng.random(), rng.random()))
        if largest_share(mask[rows, columns]) <= config.most_of_one:
            break
    picture, mask = padded(picture[rows, columns], mask[rows, columns], config.crop)
    if rng.random() < config.flip:
        picture, mask = picture[:, ::-1], mask[:, ::-1]
    return np.ascontiguousarray(picture), np.ascontiguousarray(mask)
