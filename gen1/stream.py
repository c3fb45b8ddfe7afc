"""A recording of another format, as events in pieces."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np


class Stream(NamedTuple):
    """Events of a file in pieces EVENT [n], times in us as the file has them, in its order.

    `size_hw`: height and width of the sensor in px, None where the file does not say;
    `guess_hw`: what it then is, if that can be known. `notes`: what was odd, in sentences, once
    all pieces were read. Iteration raises ValueError, naming the file, for what is damaged.
    """

    pieces: Iterable[np.ndarray]
    size_hw: tuple[int, int] | None
    notes: Callable[[], list[str]] = list
    guess_hw: tuple[int, int] | None = None
