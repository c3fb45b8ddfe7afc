"""Which events to leave out as noise: isolated ones, and all of hot pixels. Off by default."""

import numpy as np

from gen1.compiled import compiled
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
    t_us, x, y = (events[name].astype(np.int64) for name in "txy")
    fired_us = np.full((height + 2, width + 2), NEVER_US)
    kept = kept_pixels(t_us, x, y, denoise_us, hot, fired_us)
    return kept[len(events) - np.count_nonzero(events["t"] >= start_us) :]


def kept_pixels(
    t_us: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    denoise_us: int,
    hot: np.ndarray,
    fired_us: np.ndarray,
) -> np.ndarray:
    """kept_events for events that follow those of earlier calls; columns int64 [n].

    fired_us: int64 [H + 2, W + 2], when each pixel fired last (NEVER_US at first), with a border
    that saves the edge cases; brought up to date.
    """
    inside = (x < hot.shape[1]) & (y < hot.shape[0])
    kept = np.ones(len(t_us), bool)
    kept[inside] = ~hot[y[inside], x[inside]]
    if denoise_us:
        candidates = np.flatnonzero(kept & inside)
        columns = (t_us[candidates], x[candidates], y[candidates])
        kept[candidates] = _supported(*columns, denoise_us, fired_us)
    return kept


@compiled(nogil=True)
def _supported(
    t_us: np.ndarray, x: np.ndarray, y: np.ndarray, denoise_us: int, latest_us: np.ndarray
) -> np.ndarray:
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
