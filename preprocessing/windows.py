"""Label times -> the stretch of events that a sample is made of, and its bins."""

import numpy as np


def label_times(boxes: np.ndarray) -> np.ndarray:
    """Distinct label times of a BOX array in us, ascending, int64 [N]: one sample each."""
    return np.unique(boxes["t"]).astype(np.int64)


def stride_times(first_us: int, last_us: int, every_us: int) -> np.ndarray:
    """Times first_us + every_us, first_us + 2 every_us, ... in us, int64 [N].

    The last is at most one us past last_us: windows [t - every_us, t) lie inside the recording.
    """
    return np.arange(first_us + every_us, last_us + 2, every_us, dtype=np.int64)


def label_windows(times_us: np.ndarray, window_us: int) -> np.ndarray:
    """Windows [t - window_us, t) that end at the label times, int64 [N, 2] of (start, end).

    A label earlier than the window gets a negative start: its first bins stay empty, nothing
    is read from after the label.
    """
    if window_us < 1:
        raise ValueError(f"a window of {window_us} us was given, expected 1 us or more")
    end_us = np.asarray(times_us, dtype=np.int64)
    return np.stack([end_us - window_us, end_us], axis=1)


def bin_edges(start_us: int, window_us: int, time_steps: int) -> np.ndarray:
    """Edges of the time_steps bins of a window, int64 [time_steps + 1] in us.

    Bin k holds edges[k] <= t < edges[k + 1], exactly the events with
    (t - start_us) * time_steps // window_us == k; hence the rounding up.
    """
    steps = np.arange(time_steps + 1, dtype=np.int64)
    return start_us - (-window_us * steps) // time_steps
