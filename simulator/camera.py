"""Log-luminance frames -> events, as an event pixel makes them.

Each pixel remembers the level of its last event and fires when the light has moved from it by the
pixel's own threshold (Lichtsteiner et al., 2008); crossing times are interpolated between frames
(Rebecq et al., ESIM, 2018).
"""

from dataclasses import dataclass

import numpy as np

from gen1.compiled import compiled
from gen1.spec import EVENT
from simulator.canvas import LOG_UNIT
from simulator.portable import Draws
from simulator.spec import HEIGHT, WIDTH

_PIXELS = HEIGHT * WIDTH
#: Background activity is drawn per step in this many slots of equal length.
_NOISE_SLOTS = 256


@dataclass(frozen=True)
class Sensor:
    """threshold: log-luminance; mismatch: its relative spread over pixels; rates in Hz."""

    threshold: float = 0.165
    mismatch: float = 0.05
    refractory_us: int = 500
    noise_hz: float = 0.3
    hot_pixels: int = 6
    hot_hz: float = 120.0


class Camera:
    """The state of every pixel between frames that lie `step_us` apart."""

    def __init__(self, draws: Draws, sensor: Sensor, first_frame: np.ndarray, step_us: int):
        spread = 1.0 + draws.bell(sensor.mismatch, (2, HEIGHT, WIDTH))
        self._thresholds = np.rint(spread * (sensor.threshold * LOG_UNIT)).astype(np.int32)
        offset = draws.uniforms(-1.0, 1.0, (HEIGHT, WIDTH)) * self._thresholds.min(axis=0)
        self._frame = first_frame.copy()
        self._level = first_frame + np.rint(0.9 * offset).astype(np.int32)
        self._last_us = np.full((HEIGHT, WIDTH), -sensor.refractory_us, np.int64)
        self._hot = np.array([draws.integer(0, _PIXELS) for _ in range(sensor.hot_pixels)])
        self._random = np.array([draws.integer(1, 1 << 48)], np.uint64)
        self._sensor, self._step_us = sensor, step_us
        self._now_us = 0
        most = _PIXELS * (step_us // sensor.refractory_us + 1) + _NOISE_SLOTS + sensor.hot_pixels
        self._offsets, self._pixels = np.empty(most, np.int32), np.empty(most, np.int32)

    def expose(self, frame: np.ndarray) -> np.ndarray:
        """The events (EVENT, in order of time) between the last frame and this one."""
        sensor, step_s = self._sensor, self._step_us * 1e-6
        found = _cross(
            frame, self._frame, self._level, self._thresholds, self._last_us,
            self._now_us, self._step_us, sensor.refractory_us, self._offsets, self._pixels,
        )  # fmt: skip
        found = _add_noise(
            self._random, self._hot, self._step_us, found, self._offsets, self._pixels,
            _chance(sensor.noise_hz * _PIXELS * step_s / _NOISE_SLOTS),
            _chance(sensor.hot_hz * step_s),
        )  # fmt: skip
        events = np.empty(found, EVENT)
        order = self._offsets[:found].argsort(kind="stable")
        pixels = self._pixels[order]
        events["t"] = self._now_us + self._offsets[order]
        events["p"] = pixels & 1
        events["x"] = (pixels >> 1) % WIDTH
        events["y"] = (pixels >> 1) // WIDTH
        self._frame[:] = frame
        self._now_us += self._step_us
        return events


def _chance(probability: float) -> int:
    """A probability as a threshold for 32 random bits."""
    return round(min(probability, 1.0) * (1 << 32))


@compiled()
def _cross(  # type: ignore[no-untyped-def]
    frame, before, level, thresholds, last_us, now_us, step_us, refractory_us, offsets, pixels
):
    """Threshold crossings within the step; what falls into the refractory period is lost."""
    found = 0
    for y in range(HEIGHT):
        for x in range(WIDTH):
            new, reference = frame[y, x], level[y, x]
            difference = new - reference
            if -thresholds[0, y, x] < difference < thresholds[1, y, x]:
                continue
            on = difference > 0
            stride = thresholds[1, y, x] if on else -thresholds[0, y, x]
            old = before[y, x]
            change = np.int64(new - old)
            while (new - reference >= stride) if on else (new - reference <= stride):
                reference += stride
                offset = 0
                if change != 0:
                    offset = (reference - old) * np.int64(step_us) // change
                offset = min(max(offset, 0), step_us - 1)
                if now_us + offset - last_us[y, x] >= refractory_us:
                    last_us[y, x] = now_us + offset
                    offsets[found] = offset
                    pixels[found] = ((y * WIDTH + x) << 1) | (1 if on else 0)
                    found += 1
            level[y, x] = reference
    return found


@compiled()
def _add_noise(  # type: ignore[no-untyped-def]
    random, hot, step_us, found, offsets, pixels, noise_chance, hot_chance
):
    """Background activity anywhere, and hot pixels that fire by themselves."""
    for slot in range(_NOISE_SLOTS):
        if _next(random) < noise_chance:
            offsets[found] = (slot * step_us + _next(random) % step_us) // _NOISE_SLOTS
            pixels[found] = _next(random) % (2 * _PIXELS)
            found += 1
    for pixel in hot:
        if _next(random) < hot_chance:
            offsets[found] = _next(random) % step_us
            pixels[found] = 2 * pixel + 1
            found += 1
    return found


@compiled()
def _next(random):  # type: ignore[no-untyped-def]
    """32 random bits from a 64-bit linear congruential generator (Knuth's MMIX constants)."""
    random[0] = random[0] * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
    return np.int64(random[0] >> np.uint64(32))
