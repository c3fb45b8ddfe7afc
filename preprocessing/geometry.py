"""From sensor pixels to the network's input and back.

`Geometry`, ours, never resamples. `Letterbox` is what the SpikeYOLO authors feed, for comparisons
on equal input.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from gen1.spec import BOX, GEN1

#: Of the networks, in px: their maps divide what they read by no more.
LARGEST_STRIDE = 32
Boxes = TypeVar("Boxes")  # NumPy array or torch tensor


@dataclass(frozen=True)
class Geometry:
    """Sensor -> frame (downsampled by an integer) -> network size (frame padded with zeros).

    Padding is added at the bottom and right up to a multiple of LARGEST_STRIDE, so a box moves
    only by the factor: 240x304 -> 256x320, or with downsample 2 120x152 -> 128x160. Sides in px.
    Raises ValueError if the factor does not divide them.
    """

    height: int = GEN1.height
    width: int = GEN1.width
    downsample: int = 1

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.downsample) < 1:
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
        height, width = (-(-side // LARGEST_STRIDE) * LARGEST_STRIDE for side in self.frame_hw)
        return height, width

    def fit(self, frames: np.ndarray, background: int = 0) -> np.ndarray:
        """Frames [..., frame_hw] -> [..., network_hw], the rest `background`.

        Raises ValueError for another size.
        """
        if frames.shape[-2:] != self.frame_hw:
            raise ValueError(f"frames of {frames.shape[-2:]} px, expected {self.frame_hw}")
        padded = np.full((*frames.shape[:-2], *self.network_hw), background, frames.dtype)
        height, width = self.frame_hw
        padded[..., :height, :width] = frames
        return padded

    def boxes_to_network(self, xyxy: Boxes) -> Boxes:
        """Corners in sensor px -> corners in network px (any array or tensor)."""
        return xyxy / self.downsample  # type: ignore[operator, return-value]

    def boxes_to_sensor(self, xyxy: Boxes) -> Boxes:
        """Corners in network px -> corners in sensor px, the exact inverse."""
        return xyxy * self.downsample  # type: ignore[operator, return-value]


@dataclass(frozen=True)
class Letterbox:
    """The authors' input: frames scaled to a width of `side`, centred, with a border of 114.

    240x304 becomes 253x320 inside 320x320, so x and y scale differently and a pixel mixes its
    neighbours' polarities. Scaling is OpenCV's fixed-point bilinear, to the last bit.
    """

    height: int = GEN1.height
    width: int = GEN1.width
    side: int = 320
    border: int = 114

    @property
    def downsample(self) -> int:
        return 1

    @property
    def network_hw(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.side, self.side

    @property
    def _scaled_height(self) -> int:
        return round(self.height * self.side / self.width)

    @property
    def _top(self) -> int:
        return (self.side - self._scaled_height) // 2

    def fit(self, frames: np.ndarray, background: int = 0) -> np.ndarray:  # noqa: ARG002
        """Frames uint8 [..., height, width] -> [..., side, side]; `background` is not used."""
        if frames.shape[-2:] != (self.height, self.width):
            expected = (self.height, self.width)
            raise ValueError(f"frames of {frames.shape[-2:]} px, expected {expected}")
        boxed = np.full((*frames.shape[:-2], self.side, self.side), self.border, np.uint8)
        rows = slice(self._top, self._top + self._scaled_height)
        boxed[..., rows, :] = _scale_bilinear(frames, self._scaled_height, self.side)
        return boxed

    def boxes_to_network(self, xyxy: Boxes) -> Boxes:
        """Corners in sensor px -> corners in network px (any array or tensor)."""
        scale, offset = self._affine(xyxy)
        return xyxy * scale + offset

    def boxes_to_sensor(self, xyxy: Boxes) -> Boxes:
        """Corners in network px -> corners in sensor px, the inverse."""
        scale, offset = self._affine(xyxy)
        return (xyxy - offset) / scale

    def _affine(self, xyxy: Any) -> tuple[Any, Any]:
        """Factors and offsets of corners, in their own kind of array."""
        make = np.array if isinstance(xyxy, np.ndarray) else xyxy.new_tensor
        scale = [self.side / self.width, self._scaled_height / self.height] * 2
        return make(scale, dtype=xyxy.dtype), make([0, self._top] * 2, dtype=xyxy.dtype)


def as_boxes(rows: np.ndarray, t_us: int, geometry: Geometry | Letterbox) -> np.ndarray:
    """Detections [n, 6] (x1 y1 x2 y2 score class, network px) at t_us -> BOX [n], sensor px."""
    xyxy = geometry.boxes_to_sensor(rows[:, :4])
    boxes = np.zeros(len(rows), BOX)
    boxes["t"] = t_us
    boxes["x"], boxes["y"] = xyxy[:, 0], xyxy[:, 1]
    boxes["w"], boxes["h"] = xyxy[:, 2] - xyxy[:, 0], xyxy[:, 3] - xyxy[:, 1]
    boxes["class_confidence"], boxes["class_id"] = rows[:, 4], rows[:, 5]
    return boxes


def _scale_bilinear(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [..., H, W] -> uint8 [..., height, width] in the 11-bit arithmetic of OpenCV."""
    top, bottom, above, below = _taps(frames.shape[-2], height)
    left, right, before, after = _taps(frames.shape[-1], width)
    values = frames.astype(np.int32)
    rows = (values[..., left] * before + values[..., right] * after) >> 4
    upper = (rows[..., top, :] * above[:, None]) >> 16
    lower = (rows[..., bottom, :] * below[:, None]) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For every target pixel the two source pixels it mixes and their weights, in 2048ths."""
    centre = ((np.arange(target) + 0.5) * (source / target) - 0.5).astype(np.float32)
    first = np.floor(centre)
    share = centre - first
    index = first.astype(np.int64)
    weights = [np.rint(w * 2048).astype(np.int32) for w in (1 - share, share)]
    return index.clip(0, source - 1), (index + 1).clip(0, source - 1), weights[0], weights[1]
