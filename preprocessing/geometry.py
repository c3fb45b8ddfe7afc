"""From sensor pixels to the network's input and back; nothing is ever resampled."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from gen1.spec import HEIGHT, WIDTH

Boxes = TypeVar("Boxes")  # NumPy array or torch tensor


@dataclass(frozen=True)
class Geometry:
    """Sensor -> frame (downsampled by an integer) -> network size (frame padded with zeros).

    Padding is added at the bottom and right up to a multiple of `multiple`, the largest stride
    of the network, so a box moves only by the factor: 240x304 -> 256x320, or with downsample 2
    120x152 -> 128x160. Sides in px. Raises ValueError if the factor does not divide them.
    """

    height: int = HEIGHT
    width: int = WIDTH
    downsample: int = 1
    multiple: int = 32

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.downsample, self.multiple) < 1:
            raise ValueError(f"{self} was given, expected sides and factors of 1 or more")
        if self.height % self.downsample or self.width % self.downsample:
            found = f"a sensor of {self.height}x{self.width} px"
            raise ValueError(f"{found} was given, expected multiples of {self.downsample}")

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Height and width of a histogram."""
        return self.height // self.downsample, self.width // self.downsample

    @property
    def network_hw(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        height, width = (-(-side // self.multiple) * self.multiple for side in self.frame_hw)
        return height, width

    def pad(self, frames: np.ndarray) -> np.ndarray:
        """Frames [..., frame_hw] -> [..., network_hw]; raises ValueError for another size."""
        if frames.shape[-2:] != self.frame_hw:
            raise ValueError(f"frames of {frames.shape[-2:]} px, expected {self.frame_hw}")
        padded = np.zeros((*frames.shape[:-2], *self.network_hw), frames.dtype)
        height, width = self.frame_hw
        padded[..., :height, :width] = frames
        return padded

    def boxes_to_network(self, xyxy: Boxes) -> Boxes:
        """Corners in sensor px -> corners in network px (any array or tensor)."""
        return xyxy / self.downsample  # type: ignore[operator, return-value]

    def boxes_to_sensor(self, xyxy: Boxes) -> Boxes:
        """Corners in network px -> corners in sensor px, the exact inverse."""
        return xyxy * self.downsample  # type: ignore[operator, return-value]
