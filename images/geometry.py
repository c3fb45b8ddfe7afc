"""From a picture to the network's input and back: resizing, letterboxing, boxes.

Source of the rules: the SpikeYOLO authors' fork of ultralytics 8.0.197 (ECCV 2024), but for their
slips: pixels and boxes move by the same whole number, and each axis has its own factor.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

#: What is beyond a picture.
GREY = 114
#: The networks divide what they read by no more.
STRIDE = 32
Size = tuple[int, int]  # height, width in px


def load_size(hw: Size, side: int) -> Size:
    """Size whose longer side is `side`, the other rounded up."""
    ratio = side / max(hw)
    height, width = (min(math.ceil(length * ratio), side) for length in hw)
    return height, width


def resized(picture: np.ndarray, hw: Size) -> np.ndarray:
    """Picture uint8 [H, W, 3] at another size: bilinear without antialiasing, as OpenCV does."""
    if picture.shape[:2] == hw:
        return picture
    return cv2.resize(picture, hw[::-1], interpolation=cv2.INTER_LINEAR)


@dataclass(frozen=True)
class Placing:
    """Where a picture of `source` lies in a canvas: scaled to `scaled`, its corner at `corner`.

    All (height, width) or (row, column) in px.
    """

    source: Size
    scaled: Size
    corner: tuple[int, int]
    canvas: Size

    @classmethod
    def letterbox(
        cls, source: Size, canvas: Size, enlarge: bool = True, least: bool = False
    ) -> "Placing":
        """Centred, as large as fits. least: the smallest canvas of strides that holds it."""
        ratio = min(side / length for side, length in zip(canvas, source, strict=True))
        ratio = ratio if enlarge else min(ratio, 1.0)
        height, width = (round(length * ratio) for length in source)
        spare = canvas[0] - height, canvas[1] - width
        if least:
            spare = spare[0] % STRIDE, spare[1] % STRIDE
        top, left = (round(rest / 2 - 0.1) for rest in spare)
        return cls(source, (height, width), (top, left), (height + spare[0], width + spare[1]))

    @property
    def _affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Factors and offsets of corners x1 y1 x2 y2."""
        factors = [self.scaled[axis] / self.source[axis] for axis in (1, 0)] * 2
        return np.array(factors), np.array([self.corner[1], self.corner[0]] * 2, float)

    def paint(self, picture: np.ndarray) -> np.ndarray:
        """Picture uint8 [H, W, 3] of the source size -> the canvas, GREY beyond it."""
        canvas = np.full((*self.canvas, 3), GREY, np.uint8)
        (top, left), (height, width) = self.corner, self.scaled
        canvas[top : top + height, left : left + width] = resized(picture, self.scaled)
        return canvas

    def boxes_in(self, xyxy: np.ndarray) -> np.ndarray:
        """Corners in px of the source -> px of the canvas."""
        factors, offsets = self._affine
        return xyxy * factors + offsets

    def boxes_out(self, xyxy: np.ndarray) -> np.ndarray:
        """Corners in px of the canvas -> px of the source, cut at its edges."""
        factors, offsets = self._affine
        return clipped((xyxy - offsets) / factors, self.source)


def clipped(xyxy: np.ndarray, hw: Size) -> np.ndarray:
    """Corners moved into [0, width] x [0, height]."""
    return np.clip(xyxy, 0, np.array([hw[1], hw[0]] * 2, float))


def batch_shapes(
    sizes: np.ndarray, batch: int, side: int, pad: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Order of pictures by shape, int [n], and the canvas of each batch of them, int [m, 2].

    sizes: heights and widths, int [n, 2]. Pictures of like shapes share a canvas of strides whose
    longer side is about `side`, with `pad` strides to spare.
    """
    ratios = sizes[:, 0] / sizes[:, 1]
    order = np.argsort(ratios, kind="stable")
    shapes = []
    for first in range(0, len(order), batch):
        group = ratios[order[first : first + batch]]
        low, high = group.min(), group.max()
        shape = (high, 1.0) if high < 1 else (1.0, 1 / low) if low > 1 else (1.0, 1.0)
        shapes.append([math.ceil(part * side / STRIDE + pad) * STRIDE for part in shape])
    return order, np.array(shapes, int).reshape(-1, 2)
