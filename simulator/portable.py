"""Random draws and smooth waves that have the same bits on every machine."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Draws:
    """A stream of random numbers fixed by its seeds.

    Built on the raw output of PCG64, which NumPy keeps stable; `Generator.normal` and its
    siblings may change between releases and call the C library's log and exp.
    """

    def __init__(self, *seeds: int):
        self._bits = np.random.PCG64(np.random.SeedSequence(seeds))

    def uniforms(self, low: float, high: float, shape: tuple[int, ...]) -> np.ndarray:
        """float64 of the given shape, uniform in [low, high)."""
        raw = self._bits.random_raw(int(np.prod(shape, dtype=np.int64)))
        return low + (high - low) * ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def uniform(self, low: float, high: float) -> float:
        return float(self.uniforms(low, high, (1,))[0])

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high)."""
        return low + int(self.uniform(0.0, high - low))

    def chance(self, probability: float) -> bool:
        return self.uniform(0.0, 1.0) < probability

    def choice(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options))]

    def bell(self, sigma: float, shape: tuple[int, ...]) -> np.ndarray:
        """Zero-mean, bell-shaped float64: the sum of four uniforms, never beyond 3.5 sigma."""
        u = self.uniforms(-0.5, 0.5, (4, *shape))
        return sigma * 1.7320508075688772 * (((u[0] + u[1]) + u[2]) + u[3])


def wave(cycles: np.ndarray) -> np.ndarray:
    """A sine of period 1 to within 0.001, from two parabolas: + - * only."""
    x = 2.0 * (cycles - np.floor(cycles)) - 1.0
    y = -4.0 * x * (1.0 - np.abs(x))
    return y * (0.775 + 0.225 * np.abs(y))
