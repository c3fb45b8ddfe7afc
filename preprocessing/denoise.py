"""Which events to leave out as noise: isolated ones, and all of hot pixels. Off by default."""

import numba
import numpy as np

from gen1.dat import DatReader

NEVER_US = np.int64(-(1 << 62))
EVENTS_AT_ONCE = 1 << 21


def hot_pixels(reader: DatReader, height: int, width: int, hot_pixel_hz: float) -> np.ndarray:
    """Pixels with more events per second than that over the whole recording, bool [H, W]."""
    counts = np.zeros((height, width), np.int64)
    for first in range(0, reader.n_events, EVENTS_AT_ONCE):
        events = reader.decode(first, first + EVENTS_AT_ONCE)
        inside = (events["x"] < width) & (events["y"] < height)
        cells = events["y"][inside].astype(np.int64) * width + events["x"][inside]
        counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
        reader.release()
    return counts > hot_pixel_hz * reader.duration_us / 1e6


def kept_events(
    reader: DatReader, start_us: int, end_us: int, denoise_us: int, hot: np.ndarray
) -> np.ndarray:
    """Which events of [start_us, end_us) stay, bool [n]; hot: bool [H, W].

    An event stays if one of its four neighbours had an event less than denoise_us before it
    (what tonic calls Denoise); 0 keeps isolated events. Events out of frame stay, to be counted
    as such. Only the past of a window matters, so windows are independent of each other.
    """
    events = reader.window(start_us - denoise_us, end_us)
    height, width = hot.shape
    inside = (events["x"] < width) & (events["y"] < height)
    kept = np.ones(len(events), bool)
    kept[inside] = ~hot[events["y"][inside], events["x"][inside]]
    if denoise_us:
        candidates = np.flatnonzero(kept & inside)
        t_us, x, y = (events[name][candidates].astype(np.int64) for name in "txy")
        latest_us = np.full((height + 2, width + 2), NEVER_US)  # a border saves the edge cases
        kept[candidates] = _supported(t_us, x, y, denoise_us, latest_us)
    return kept[len(events) - np.count_nonzero(events["t"] >= start_us) :]


@numba.njit(cache=True, nogil=True)
def _supported(t_us, x, y, denoise_us, latest_us):
    """Whether a neighbour of each event had one less than denoise_us before, bool [n]."""
    supported = np.empty(len(t_us), np.bool_)
    for i in range(len(t_us)):
        row, column = y[i] + 1, x[i] + 1
        neighbour_us = max(
            latest_us[row - 1, column],
            latest_us[row + 1, column],
            latest_us[row, column - 1],
            latest_us[row, column + 1],
        )
        supported[i] = t_us[i] - neighbour_us < denoise_us
        latest_us[row, column] = t_us[i]
    return supported
