"""Which of two ascending lists of times belong together, in us."""

import numpy as np


def pairs_within(
    times_us: np.ndarray, others_us: np.ndarray, reach_us: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (time, other) of all pairs at most reach_us apart, both int64 [m], ordered by time.

    others_us ascends.
    """
    first = np.searchsorted(others_us, times_us - reach_us, side="left")
    counts = np.searchsorted(others_us, times_us + reach_us, side="right") - first
    time = np.repeat(np.arange(len(times_us)), counts)
    rank = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return time, first[time] + rank


def nearest(times_us: np.ndarray, others_us: np.ndarray) -> np.ndarray:
    """Index of the other time nearest to each time, int64 [n]; of two as near, the earlier.

    others_us ascends and is not empty.
    """
    after = np.searchsorted(others_us, times_us).clip(1, len(others_us) - 1)
    before_us, after_us = others_us[after - 1], others_us[after]
    return np.maximum(after - (times_us - before_us <= after_us - times_us), 0)


def join(times_us: np.ndarray, others_us: np.ndarray, reach_us: int) -> np.ndarray:
    """Index of the other time that each time is joined to, int64 [n]; -1 for none.

    Both ascend, each without doubles. Of all pairs at most reach_us apart the nearest joins
    first (of two as near, the earlier), and no time joins twice.
    """
    time, other = pairs_within(times_us, others_us, reach_us)
    order = np.argsort(np.abs(times_us[time] - others_us[other]), kind="stable")
    joined, is_free = np.full(len(times_us), -1), np.ones(len(others_us), bool)
    for i, k in zip(time[order].tolist(), other[order].tolist(), strict=True):
        if joined[i] < 0 and is_free[k]:
            joined[i], is_free[k] = k, False
    return joined
