"""Windows end at the label and bins follow the floor rule of the truth."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen1.spec import BOX
from preprocessing.windows import bin_edges, label_times, label_windows


def test_label_times_are_distinct_and_ascending():
    boxes = np.zeros(4, BOX)
    boxes["t"] = [499_999, 249_999, 499_999, 0]
    times_us = label_times(boxes)
    assert times_us.dtype == np.int64
    assert times_us.tolist() == [0, 249_999, 499_999]
    assert label_times(boxes[:0]).tolist() == []


def test_windows_end_at_the_label_and_may_start_before_zero():
    windows = label_windows(np.array([99_999, 600_000]), 250_000)
    assert windows.tolist() == [[-150_001, 99_999], [350_000, 600_000]]
    with pytest.raises(ValueError, match="0 us was given, expected 1 us or more"):
        label_windows(np.array([1]), 0)


@settings(deadline=None)
@given(st.integers(-(10**6), 10**8), st.integers(1, 3000), st.integers(1, 12), st.integers(0, 2999))
def test_edges_hold_exactly_the_events_of_the_floor_rule(start_us, window_us, steps, elapsed_us):
    elapsed_us %= window_us
    edges = bin_edges(start_us, window_us, steps)
    assert edges[0] == start_us
    assert edges[-1] == start_us + window_us
    step = elapsed_us * steps // window_us
    assert edges[step] <= start_us + elapsed_us < edges[step + 1]
