"""What training does to pictures and boxes: mosaic, warp, colour, flip, mixture.

Every function takes the numbers that are drawn, so that the authors' own can be replayed; `Draws`
draws them. Boxes are corners x1 y1 x2 y2 in px. Source: SpikeYOLO (ECCV 2024), its fork of
ultralytics 8.0.197.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from images.geometry import GREY, Size, clipped


@dataclass(frozen=True)
class Sample:
    """A picture uint8 [H, W, 3], RGB; classes int [n]; boxes float64 [n, 4], corners in px."""

    picture: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray


@dataclass(frozen=True)
class Warp:
    """A projective motion: of the input's centre to a point of the output, and about it.

    angle and shears in degrees; translation as a share of the output's width and height.
    """

    scale: float = 1.0
    translate_x: float = 0.5
    translate_y: float = 0.5
    angle: float = 0.0
    shear_x: float = 0.0
    shear_y: float = 0.0
    perspective_x: float = 0.0
    perspective_y: float = 0.0

    def matrix(self, source: Size, target: Size) -> np.ndarray:
        """float32 [3, 3], from px of a picture of `source` to px of one of `target`."""
        centre, perspective, shear, shift = (np.eye(3) for _ in range(4))
        centre[:2, 2] = -source[1] / 2, -source[0] / 2
        perspective[2, :2] = self.perspective_x, self.perspective_y
        turn = np.radians(self.angle)
        cosine, sine = self.scale * np.cos(turn), self.scale * np.sin(turn)
        rotation = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
        shear[0, 1], shear[1, 0] = np.tan(np.radians([self.shear_x, self.shear_y]))
        shift[:2, 2] = self.translate_x * target[1], self.translate_y * target[0]
        return (shift @ shear @ rotation @ perspective @ centre).astype(np.float32)


def mosaic(tiles: Sequence[Sample], side: int, centre: tuple[int, int]) -> Sample:
    """Four samples around `centre` (row, column) of a canvas 2 side x 2 side, GREY between them."""
    canvas = np.full((2 * side, 2 * side, 3), GREY, np.uint8)
    row, column = centre
    boxes, classes = [], []
    for number, tile in enumerate(tiles):
        height, width = tile.picture.shape[:2]
        top = row - height if number < 2 else row
        left = column - width if number % 2 == 0 else column
        y1, y2 = max(top, 0), min(top + height, 2 * side)
        x1, x2 = max(left, 0), min(left + width, 2 * side)
        canvas[y1:y2, x1:x2] = tile.picture[y1 - top : y2 - top, x1 - left : x2 - left]
        boxes.append(tile.boxes + np.array([left, top] * 2))
        classes.append(tile.classes)
    moved, of_class = clipped(np.concatenate(boxes), (2 * side, 2 * side)), np.concatenate(classes)
    seen = (moved[:, 2:] > moved[:, :2]).all(1)
    return Sample(canvas, of_class[seen], moved[seen])


def warped(sample: Sample, warp: Warp, target: Size, least_area: float = 0.1) -> Sample:
    """Move a sample; boxes that are cut to less than `least_area` of themselves are dropped."""
    matrix = warp.matrix(sample.picture.shape[:2], target)
    canvas = target[::-1]
    border = (GREY, GREY, GREY)
    if warp.perspective_x or warp.perspective_y:
        picture = cv2.warpPerspective(sample.picture, matrix, canvas, borderValue=border)
    else:
        picture = cv2.warpAffine(sample.picture, matrix[:2], canvas, borderValue=border)
    boxes = clipped(moved_boxes(sample.boxes, matrix), target)
    kept = worth_keeping(sample.boxes * warp.scale, boxes, least_area)
    return Sample(picture, sample.classes[kept], boxes[kept])


def moved_boxes(xyxy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The smallest upright boxes of the moved corners, float64 [n, 4]."""
    corners = xyxy[:, [0, 1, 2, 3, 0, 3, 2, 1]].reshape(-1, 2)
    points = np.c_[corners, np.ones(len(corners))] @ matrix.T.astype(np.float64)
    points = (points[:, :2] / points[:, 2:]).reshape(-1, 4, 2)
    return np.concatenate([points.min(1), points.max(1)], axis=1)


def worth_keeping(before: np.ndarray, after: np.ndarray, least_area: float) -> np.ndarray:
    """Which boxes are still more than 2 px a side, no sliver, and enough of what they were."""
    (w1, h1), (w2, h2) = ((b[:, 2:] - b[:, :2]).T for b in (before, after))
    sliver = np.maximum(w2 / (h2 + 1e-16), h2 / (w2 + 1e-16))
    return (w2 > 2) & (h2 > 2) & (w2 * h2 / (w1 * h1 + 1e-16) > least_area) & (sliver < 100)


def recoloured(picture: np.ndarray, gains: Sequence[float]) -> np.ndarray:
    """Hue, saturation and value of RGB uint8 [H, W, 3] times three gains; hue goes round."""
    levels = np.arange(256)
    hue, saturation, value = (levels * gain for gain in gains)
    table = np.stack([hue % 180, np.clip(saturation, 0, 255), np.clip(value, 0, 255)], axis=1)
    changed = cv2.LUT(cv2.cvtColor(picture, cv2.COLOR_RGB2HSV), table[None].astype(np.uint8))
    return cv2.cvtColor(changed, cv2.COLOR_HSV2RGB)


def flipped(sample: Sample) -> Sample:
    """Left and right exchanged."""
    width, boxes = sample.picture.shape[1], sample.boxes.copy()
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return Sample(cv2.flip(sample.picture, 1), sample.classes, boxes)


def mixed(a: Sample, b: Sample, share: float) -> Sample:
    """Both pictures at once, `share` of the first; the boxes of both."""
    picture = (a.picture * share + b.picture * (1 - share)).astype(np.uint8)
    classes = np.concatenate([a.classes, b.classes])
    return Sample(picture, classes, np.concatenate([a.boxes, b.boxes]))
