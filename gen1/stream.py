"""A recording of another format, as events in pieces."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

#: Columns t, x, y, p of as many events: EVENT [n], or arrays by name.
Piece = np.ndarray | Mapping[str, np.ndarray]


class Stream(NamedTuple):
    """Events of a file in pieces, times in us as the file has them, in its order.

    `size_hw`: height and width of the sensor in px, None where the file does not say;
    `guess_hw`: what it then is, if that can be known. `notes`: what was odd, in sentences, once
    all pieces were read. `rises`: times that step back are to become the latest before them.
    Iteration raises ValueError, naming the file, for what is damaged.
    """

    pieces: Iterable[Piece]
    size_hw: tuple[int, int] | None
    notes: Callable[[], list[str]] = list
    guess_hw: tuple[int, int] | None = None
    rises: bool = False
