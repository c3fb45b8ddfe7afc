"""Who is in the street, where they are at any time, and where the camera looks.

Camera coordinates: X metres to the right, Z metres ahead, ground at CAMERA_HEIGHT_M below the eye.
"""

from dataclasses import dataclass

import numpy as np

from simulator.canvas import MIP_LEVELS, ONE, TEXELS_PER_M
from simulator.clock import MOVING, Clock
from simulator.figures import Part
from simulator.portable import wave
from simulator.spec import HEIGHT, STUFF, WIDTH

FOCAL_PX = 260.0
CAMERA_HEIGHT_M = 1.25
#: Things fade into haze between these distances.
HAZE_FROM_M, HAZE_TO_M = 22.0, 32.0
#: Columns of a placement: see `place`.
PLACEMENT_COLUMNS = 14
_FIXED = 1 << 16


@dataclass(frozen=True)
class Ego:
    """The car that carries the camera: steady speed, slow turning, road vibration.

    yaw, pitch: (amplitude px, frequency Hz, phase in cycles) of each wave. clock: when it stops.
    """

    speed: float
    horizon: float
    yaw: tuple[tuple[float, float, float], ...]
    pitch: tuple[tuple[float, float, float], ...]
    clock: Clock = MOVING

    def centre(self, t: np.ndarray) -> np.ndarray:
        """Column of the vanishing point at `t` seconds."""
        return WIDTH / 2 + _sum_of_waves(self.yaw, self.clock(t))

    def skyline(self, t: np.ndarray) -> np.ndarray:
        """Row of the horizon at `t` seconds."""
        return self.horizon + _sum_of_waves(self.pitch, self.clock(t))


def _sum_of_waves(waves: tuple[tuple[float, float, float], ...], t: np.ndarray) -> np.ndarray:
    total = np.zeros_like(t)
    for amplitude, frequency, phase in waves:
        total = total + amplitude * wave(frequency * t + phase)
    return total


@dataclass
class Actor:
    """A figure on a straight path in camera coordinates, from `born` to `dies` seconds.

    class_id: its place among the classes, or None for clutter, which is of `stuff`. facing: 1 looks
    right, -1 left. rate: gait cycles (or metres rolled) per second. clock: when it waits itself.
    drift: that part of vz which is the camera's, on the camera's clock `ego`.
    """

    parts: list[Part]
    class_id: int | None
    facing: int
    born: float
    x: float
    z: float
    vx: float
    vz: float
    nearest: float = 2.6
    rate: float = 0.0
    dies: float = float("inf")
    stuff: str = STUFF[0]
    clock: Clock = MOVING
    drift: float = 0.0
    ego: Clock = MOVING

    def position(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """X and Z in metres at `t` seconds."""
        if not (self.clock.stops or self.ego.stops):
            age = t - self.born
            return self.x + self.vx * age, np.maximum(self.z + self.vz * age, self.nearest)
        born = np.array([self.born])
        own = self.clock(t) - self.clock(born)
        z = self.z + (self.vz - self.drift) * own + self.drift * (self.ego(t) - self.ego(born))
        return self.x + self.vx * own, np.maximum(z, self.nearest)

    def boxes(self, ego: Ego, t: np.ndarray) -> np.ndarray:
        """float64 [len(t), 4]: x1, y1, x2, y2 in px, not clipped to the frame."""
        x, z = self.position(t)
        scale = FOCAL_PX / z
        rects = np.stack([_lean_extent(part, self._lean(part, t)) for part in self.parts])
        left, right = rects[..., 0].min(axis=0), rects[..., 1].max(axis=0)
        if self.facing < 0:
            left, right = -right, -left
        foot = ego.skyline(t) + scale * CAMERA_HEIGHT_M
        centre = ego.centre(t) + scale * x
        columns = (centre + scale * left, centre + scale * right)
        rows = (foot - scale * rects[..., 3].max(axis=0), foot - scale * rects[..., 2].min(axis=0))
        return np.stack([columns[0], rows[0], columns[1], rows[1]], axis=1)

    def opacity(self, t: np.ndarray) -> np.ndarray:
        """int64 0..ONE: ONE in clear air, 0 in the haze."""
        _, z = self.position(t)
        clear = (HAZE_TO_M - z) / (HAZE_TO_M - HAZE_FROM_M)
        return np.rint(ONE * np.clip(clear, 0.0, 1.0)).astype(np.int64)

    def _lean(self, part: Part, t: np.ndarray) -> np.ndarray:
        """Metres sideways per metre below the pivot."""
        return part.swing * wave(part.cadence * self.rate * self.clock(t) + self.born + part.lag)

    def place(self, ego: Ego, t: np.ndarray, first_sprite: int, number: int) -> np.ndarray:
        """int64 [len(t), parts, 14], what the renderer needs to paint every part.

        Columns: sprite, actor number, opacity, first and one-past-last column and row, texture
        position (u, v) of the frame's corner pixel and its steps per column and per row in 1/65536
        texel, mip level * ONE + share of the next level.
        """
        x, z = self.position(t)
        scale = FOCAL_PX / z
        centre = ego.centre(t) + scale * x
        foot = ego.skyline(t) + scale * CAMERA_HEIGHT_M
        step = TEXELS_PER_M / scale
        table = np.empty((len(t), len(self.parts), PLACEMENT_COLUMNS), np.int64)
        for k, part in enumerate(self.parts):
            row = table[:, k].T
            row[0], row[1], row[2] = first_sprite + k, number, self.opacity(t)
            xx, xy, yx, yy = self._inverse(part, t)
            extent = _lean_extent(part, self._lean(part, t))
            left, right = (extent[:, 0], extent[:, 1])[:: self.facing]
            row[3] = np.clip(np.floor(centre + self.facing * left * scale) - 1, 0, WIDTH)
            row[4] = np.clip(np.ceil(centre + self.facing * right * scale) + 1, 0, WIDTH)
            row[5] = np.clip(np.floor(foot - extent[:, 3] * scale) - 1, 0, HEIGHT)
            row[6] = np.clip(np.ceil(foot - extent[:, 2] * scale) + 1, 0, HEIGHT)
            px, py = part.pivot
            dx = self.facing * (0.5 - centre) / scale - px
            dy = (foot - 0.5) / scale - py
            u = TEXELS_PER_M * (px - part.sprite.left + (xx * dx + xy * dy))
            v = TEXELS_PER_M * (part.sprite.top - py - (yx * dx + yy * dy))
            steps = (self.facing * xx * step, -xy * step, -self.facing * yx * step, yy * step)
            for column, texels in enumerate((u, v, *steps), start=7):
                row[column] = np.rint(texels * _FIXED)
            row[13] = _mip(step)
        return table

    def _inverse(self, part: Part, t: np.ndarray) -> tuple[np.ndarray, ...]:
        """The matrix that takes a point about the pivot back to where it was drawn."""
        one, zero = np.ones_like(t), np.zeros_like(t)
        if part.wheel_radius:
            turn = self.rate * self.clock(t) / (6.283185307179586 * part.wheel_radius)
            sine, cosine = wave(turn), wave(turn + 0.25)
            return cosine, -sine, sine, cosine
        return one, self._lean(part, t), zero, one


def _lean_extent(part: Part, lean: np.ndarray) -> np.ndarray:
    """float64 [len(lean), 4]: left, right, bottom, top in metres of a leaning part."""
    left, right, bottom, top = part.sprite.extent
    low, high = lean * (part.pivot[1] - bottom), lean * (part.pivot[1] - top)
    extent = np.empty((len(lean), 4))
    extent[:, 0] = left + np.minimum(low, high)
    extent[:, 1] = right + np.maximum(low, high)
    extent[:, 2], extent[:, 3] = bottom, top
    return extent


def _mip(texels_per_px: np.ndarray) -> np.ndarray:
    """Mip level * ONE + share of the next coarser one."""
    fraction, exponent = np.frexp(np.clip(texels_per_px, 1.0, 2.0 ** (MIP_LEVELS - 1) - 0.01))
    return (exponent - 1) * ONE + np.floor((2.0 * fraction - 1.0) * ONE).astype(np.int64)
