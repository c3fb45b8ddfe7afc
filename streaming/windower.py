"""Events in any chunks -> histograms of sliding windows, in memory that one window bounds."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from preprocessing.histogram import EventTally, HistogramSettings


@dataclass(frozen=True)
class Window:
    """Events of [start_us, end_us): histogram uint8 settings.frame_shape, and where they went."""

    start_us: int
    end_us: int
    histogram: np.ndarray
    tally: EventTally

    @property
    def n_events(self) -> int:
        """Events in the window, those out of frame too."""
        return self.tally.events


class Windower:
    """Windows [t - window_us, t) at t = start_us + every_us, start_us + 2 every_us, ...

    settings: what a histogram is, its height and width those of the sensor. A start_us of None is
    the last multiple of every_us at or before the first event.
    """

    def __init__(
        self,
        settings: HistogramSettings,
        every_us: int,
        start_us: int | None = None,
        hot: np.ndarray | None = None,
    ) -> None:
        raise NotImplementedError

    def feed(self, events: np.ndarray) -> list[Window]:
        """The windows that these events, structured (t in us, x, y, p), complete."""
        return list(self.windows(events))

    def windows(self, events: np.ndarray) -> Iterator[Window]:
        """feed, one window in memory at a time; take all of them before the next call."""
        raise NotImplementedError

    def advance(self, t_us: int) -> Iterator[Window]:
        """A heartbeat: every event before t_us has been fed."""
        raise NotImplementedError

    def flush(self) -> Iterator[Window]:
        """The recording is over: windows that end by one us past the newest event."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget everything, as for another recording."""
        raise NotImplementedError
