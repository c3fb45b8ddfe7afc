"""Drawing with polygons and ellipses, in metres, into anti-aliased sprites."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gen1.compiled import compiled

#: Fixed-point steps per unit of natural-log luminance.
LOG_UNIT = 1 << 14
#: Opacity, and shares in interpolation, run from 0 to ONE.
FRACTION_BITS = 12
ONE = 1 << FRACTION_BITS
TEXELS_PER_M = 64
MIP_LEVELS = 5
_SUPERSAMPLE = 2
_TEXEL_MULTIPLE = 1 << (MIP_LEVELS - 1)


@dataclass(frozen=True)
class Sprite:
    """A flat picture standing on the ground; x to the right, y up, metres, y = 0 at the ground.

    `mips[k]`: int32 [2, rows, columns] at TEXELS_PER_M / 2**k: channel 0 is log-luminance times
    opacity, channel 1 opacity (0..ONE). `extent`: left, right, bottom, top of what is drawn.
    """

    mips: tuple[np.ndarray, ...]
    left: float
    top: float
    extent: tuple[float, float, float, float]


class Canvas:
    """Paper of `width` x `height` metres; x = 0 is its middle, y = 0 its lower edge."""

    def __init__(self, width: float, height: float):
        columns, rows = _texels(width), _texels(height)
        self._scale = float(TEXELS_PER_M * _SUPERSAMPLE)
        self._left = -0.5 * columns / TEXELS_PER_M
        self._top = rows / TEXELS_PER_M
        self._tone = np.zeros((rows * _SUPERSAMPLE, columns * _SUPERSAMPLE), np.int32)
        self._ink = np.zeros(self._tone.shape, np.int32)

    def polygon(self, points: Sequence[tuple[float, float]], tone: float) -> None:
        """Fill (x, y) corners with a log-luminance `tone` (natural log; 0 = mid-grey asphalt)."""
        xy = (np.array(points) - (self._left, self._top)) * (self._scale, -self._scale)
        _fill_polygon(self._tone, self._ink, xy, round(tone * LOG_UNIT))

    def rectangle(self, left: float, right: float, bottom: float, top: float, tone: float) -> None:
        self.polygon([(left, bottom), (left, top), (right, top), (right, bottom)], tone)

    def ellipse(self, x: float, y: float, rx: float, ry: float, tone: float) -> None:
        centre = ((x - self._left) * self._scale, (self._top - y) * self._scale)
        radii = (rx * self._scale, ry * self._scale)
        _fill_ellipse(self._tone, self._ink, centre, radii, round(tone * LOG_UNIT))

    def sprite(self) -> Sprite:
        """Average the supersampled drawing down to texels and their coarser levels."""
        level = _halve(np.stack([self._tone * self._ink * ONE, self._ink * ONE]))
        rows = np.flatnonzero(level[1].any(axis=1))
        columns = np.flatnonzero(level[1].any(axis=0))
        extent = (
            self._left + int(columns[0]) / TEXELS_PER_M,
            self._left + (int(columns[-1]) + 1) / TEXELS_PER_M,
            self._top - (int(rows[-1]) + 1) / TEXELS_PER_M,
            self._top - int(rows[0]) / TEXELS_PER_M,
        )
        mips = [level]
        while len(mips) < MIP_LEVELS:
            mips.append(_halve(mips[-1]))
        return Sprite(tuple(mips), self._left, self._top, extent)


def _texels(metres: float) -> int:
    """Texels across, with an empty rim, a multiple of what the coarsest level needs."""
    needed = int(metres * TEXELS_PER_M) + _TEXEL_MULTIPLE
    return (needed + _TEXEL_MULTIPLE - 1) // _TEXEL_MULTIPLE * _TEXEL_MULTIPLE


def _halve(level: np.ndarray) -> np.ndarray:
    quads = level[:, ::2, ::2] + level[:, ::2, 1::2] + level[:, 1::2, ::2] + level[:, 1::2, 1::2]
    return (quads + 2) >> 2


@compiled()
def _fill_polygon(tone, ink, xy, value):  # type: ignore[no-untyped-def]
    """Even-odd fill of sub-texels whose centre lies inside the corners `xy` [n, 2]."""
    rows, columns = ink.shape
    n = len(xy)
    cuts = np.empty(n)
    for row in range(max(0, int(xy[:, 1].min())), min(rows, int(xy[:, 1].max()) + 1)):
        y = row + 0.5
        found = 0
        for i in range(n):
            x0, y0 = xy[i]
            x1, y1 = xy[(i + 1) % n]
            if (y0 <= y) != (y1 <= y):
                cuts[found] = x0 + (x1 - x0) * ((y - y0) / (y1 - y0))
                found += 1
        cuts[:found].sort()
        for pair in range(0, found - 1, 2):
            first = max(0, int(np.ceil(cuts[pair] - 0.5)))
            last = min(columns, int(np.ceil(cuts[pair + 1] - 0.5)))
            for column in range(first, last):
                tone[row, column] = value
                ink[row, column] = 1


@compiled()
def _fill_ellipse(tone, ink, centre, radii, value):  # type: ignore[no-untyped-def]
    rows, columns = ink.shape
    cx, cy = centre
    rx, ry = radii
    for row in range(max(0, int(cy - ry)), min(rows, int(cy + ry) + 2)):
        dy = (row + 0.5 - cy) / ry
        for column in range(max(0, int(cx - rx)), min(columns, int(cx + rx) + 2)):
            dx = (column + 0.5 - cx) / rx
            if dx * dx + dy * dy <= 1.0:
                tone[row, column] = value
                ink[row, column] = 1
