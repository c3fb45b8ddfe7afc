"""A clock that stands still while something waits: what it tells is the time spent moving."""

from dataclasses import dataclass

import numpy as np

from simulator.portable import Draws

#: Braking, and starting again, takes so long.
BRAKE_S = 0.8


@dataclass(frozen=True)
class Clock:
    """Seconds of movement at a time in seconds; with no stops, the time itself.

    stops: (from, to) of each in s, ascending, a BRAKE_S or more long and apart: it brakes from
    `from` on, stands BRAKE_S later, and starts at `to`.
    """

    stops: tuple[tuple[float, float], ...] = ()

    def __call__(self, t: np.ndarray) -> np.ndarray:
        moved = t
        for start, end in self.stops:
            braking = np.clip(t - start, 0.0, BRAKE_S)
            standing = np.clip(t - (start + BRAKE_S), 0.0, end - (start + BRAKE_S))
            starting = np.clip(t - end, 0.0, BRAKE_S)
            half = (braking * braking - starting * starting) / (2.0 * BRAKE_S)
            moved = moved - (half + standing + starting)
        return moved


MOVING = Clock()


def lights(draws: Draws, seconds: float) -> Clock:
    """The camera's: it waits 3 to 8 s at a light, and drives 2 to 4 s to the next."""
    stops: list[tuple[float, float]] = []
    start = draws.uniform(-2.0, 1.5)
    while start < seconds:
        end = start + BRAKE_S + draws.uniform(3.0, 8.0)
        stops.append((start, end))
        start = end + BRAKE_S + draws.uniform(2.0, 4.0)
    return Clock(tuple(stops))


def waiting(draws: Draws, camera: Clock, born: float) -> Clock:
    """Of one who enters at `born` s: most wait while the camera does, some by themselves."""
    inside = born + draws.uniform(0.7, 2.0)
    with_camera, alone = draws.chance(0.7), draws.chance(0.3)
    early, late = draws.uniform(0.0, 1.0), draws.uniform(-0.5, 1.5)
    lasting = draws.uniform(1.0, 4.0)
    for start, end in camera.stops if with_camera else ():
        if end + late > inside + 2 * BRAKE_S:
            return Clock(((max(start - early, inside), end + late),))
    return Clock(((inside, inside + BRAKE_S + lasting),)) if alone else MOVING
