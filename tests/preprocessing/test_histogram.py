"""Histograms equal the golden figures, and the fast kernels equal the slow truth."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen1.dat import DatReader, write_dat
from gen1.spec import EVENT
from preprocessing.histogram import (
    EventTally,
    HistogramSettings,
    bin_edges,
    event_histogram,
    expand_last_polarity,
    last_polarity,
    window_histogram,
)

CASES = ("plain", "boundaries", "saturation", "empty_bins", "single_timestamp", "partial_span")
TRUTH = {"count": event_histogram, "last-polarity": last_polarity}


def to_events(t, x, y, p) -> np.ndarray:
    events = np.zeros(len(t), EVENT)
    events["t"], events["x"], events["y"], events["p"] = t, x, y, p
    return events


def in_memory_reader(events: np.ndarray) -> SimpleNamespace:
    """What window_histogram needs of a DatReader, for events sorted by time."""
    address = events["x"].astype("<u4") | events["y"].astype("<u4") << 14
    records = np.stack([events["t"], address | events["p"].astype("<u4") << 28], axis=1)

    packed = records.astype("<u4").view("<u8")[:, 0]

    def binned(edges_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        edges = np.searchsorted(events["t"], edges_us)
        return packed[edges[0] : edges[-1]], edges - edges[0]

    return SimpleNamespace(binned=binned, version=2)


@pytest.mark.parametrize("case", CASES)
def test_counts_equal_the_golden_figures(golden, tmp_path, case):
    figures = golden("gen1/fx_histograms.npz")
    height, width = figures["HW"].tolist()
    events = to_events(*(figures[f"{case}|{name}"] for name in "txyp"))
    write_dat(tmp_path / "a.dat", events[np.argsort(events["t"], kind="stable")], height, width)
    reader = DatReader(tmp_path / "a.dat")
    keys = [key for key in figures.files if key.startswith(case) and "|count_T" in key]
    assert keys
    for key in keys:
        _, window, kind = key.split("|")
        start_us, end_us = figures[f"{case}|windows"][int(window[1:])].tolist()
        size = (end_us - start_us, int(kind.removeprefix("count_T")))
        sensor = {"height": height, "width": width}
        slow = event_histogram(events, start_us, *size, **sensor)
        fast, tally = window_histogram(reader, start_us, HistogramSettings(*size, **sensor))
        np.testing.assert_array_equal(slow, figures[key])
        np.testing.assert_array_equal(fast, figures[key])
        assert tally.events == len(reader.window(start_us, end_us))


@pytest.mark.parametrize(("key", "time_steps"), [("spikeyolo_T4_WH", 4), ("ems_T5_HW", 5)])
def test_last_polarity_expands_to_the_authors_frames(golden, key, time_steps):
    figures = golden("gen1/fx_lastpolarity_frames.npz")
    events = to_events(*(figures[name] for name in "txyp"))
    expected = figures[key] if key.endswith("HW") else figures[key].transpose(0, 2, 1)
    window = (int(figures["t0"]), int(figures["win"]), time_steps, 240, 304)
    frames = last_polarity(events, *window)
    assert frames.shape == (time_steps, 2, 240, 304)
    assert frames.max() == 1
    expanded = expand_last_polarity(frames)
    assert expanded.shape == (time_steps, 3, 240, 304)
    for channel in range(3):
        np.testing.assert_array_equal(expanded[:, channel], expected)


EVENTS = st.lists(
    st.tuples(st.integers(0, 1200), st.integers(0, 11), st.integers(0, 9), st.integers(0, 1)),
    max_size=80,
).map(lambda rows: to_events(*np.array(sorted(rows, key=lambda r: r[0]), int).reshape(-1, 4).T))


@given(
    events=EVENTS,
    start_us=st.integers(-400, 1300),
    window_us=st.integers(10, 700),
    time_steps=st.integers(1, 7),
    downsample=st.sampled_from([1, 2, 4]),
    representation=st.sampled_from(["count", "last-polarity"]),
)
@settings(max_examples=150, deadline=None)
def test_fast_equals_slow_and_conserves_events(
    events, start_us, window_us, time_steps, downsample, representation
):
    height, width = 8, 8  # events reach beyond: x to 11, y to 9
    before = events.copy()
    slow = TRUTH[representation](events, start_us, window_us, time_steps, height, width, downsample)
    fast, tally = window_histogram(
        in_memory_reader(events),
        start_us,
        HistogramSettings(window_us, time_steps, representation, downsample, height, width),
    )
    np.testing.assert_array_equal(fast, slow)
    np.testing.assert_array_equal(events, before)
    in_window = (events["t"] >= start_us) & (events["t"] < start_us + window_us)
    outside = in_window & ((events["x"] >= width) | (events["y"] >= height))
    assert tally.counted == slow.sum()
    assert tally.out_of_frame == outside.sum()
    assert tally.counted + tally.clipped + tally.out_of_frame == in_window.sum()


@given(events=EVENTS, cut_us=st.integers(1, 999))
@settings(max_examples=50, deadline=None)
def test_adjacent_windows_add_up(events, cut_us):
    size = (1, 8, 8)
    whole = event_histogram(events, 0, 1000, *size)
    parts = event_histogram(events, 0, cut_us, *size) + event_histogram(
        events, cut_us, 1000 - cut_us, *size
    )
    np.testing.assert_array_equal(parts, whole)


@given(
    t=st.integers(0, 999),
    x=st.integers(0, 7),
    y=st.integers(0, 7),
    p=st.integers(0, 1),
    time_steps=st.integers(1, 9),
    downsample=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=80, deadline=None)
def test_one_event_fills_one_cell_the_right_one(t, x, y, p, time_steps, downsample):
    event = to_events([t], [x], [y], [p])
    cell = [t * time_steps // 1000, p, y // downsample, x // downsample]
    for representation in TRUTH:
        size = HistogramSettings(1000, time_steps, representation, downsample, 8, 8)
        frames, tally = window_histogram(in_memory_reader(event), 0, size)
        assert np.argwhere(frames).tolist() == [cell]
        assert tally == EventTally(counted=1)


@given(events=EVENTS, time_steps=st.integers(1, 7), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_the_order_of_events_within_a_bin_does_not_matter_to_counts(events, time_steps, seed):
    size = HistogramSettings(1000, time_steps, height=8, width=8)
    step = events["t"] * time_steps // 1000
    order = np.lexsort([np.random.default_rng(seed).random(len(events)), step])
    shuffled = events[order]
    shuffled["t"] = events["t"]  # the pixels of a bin change places, its times stay sorted
    expected, tally = window_histogram(in_memory_reader(events), 0, size)
    found, found_tally = window_histogram(in_memory_reader(shuffled), 0, size)
    np.testing.assert_array_equal(found, expected)
    assert found_tally == tally
    slow = event_histogram(
        events[np.random.default_rng(seed).permutation(len(events))], 0, 1000, time_steps, 8, 8
    )
    np.testing.assert_array_equal(slow, expected)


@pytest.mark.parametrize(("n", "clipped"), [(255, 0), (256, 1), (70_000, 69_745)])
def test_a_cell_saturates_at_255_however_many_events_it_gets(n, clipped):
    events = to_events(np.arange(n), np.full(n, 3), np.full(n, 2), np.ones(n))
    frames, tally = window_histogram(
        in_memory_reader(events), 0, HistogramSettings(n, 1, height=4, width=4)
    )
    assert frames[0, 1, 2, 3] == 255
    assert frames.sum() == 255
    assert tally == EventTally(255, clipped, 0)
    np.testing.assert_array_equal(frames, event_histogram(events, 0, n, 1, 4, 4))


def test_version_1_addresses_and_unsorted_times(golden, tmp_path):
    """Every recording of the reader's own fixtures that has events: fast equals slow."""
    figures = golden("gen1/fx_dat.npz")
    compared = 0
    for case in sorted({key.split("|")[0] for key in figures.files}):
        path = tmp_path / f"{case}.dat"
        if f"{case}|bytes" not in figures.files or case == "truncated_in_header":
            continue
        path.write_bytes(figures[f"{case}|bytes"].tobytes())
        reader = DatReader(path)
        if not reader.n_events:
            continue
        size = (reader.order.last_us + 7, 4)
        expected = event_histogram(reader.window(0, size[0]), 0, *size, 240, 304)
        frames, tally = window_histogram(reader, 0, HistogramSettings(*size))
        np.testing.assert_array_equal(frames, expected)
        assert tally.events == reader.n_events - reader.order.left_out
        order = reader.order
        compared += reader.version == 1 or order.moved + order.left_out + order.wraps > 0
    assert compared > 0


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"time_steps": 0}, "0 time steps in a window of 250000 us"),
        ({"window_us": 0}, "4 time steps in a window of 0 us"),
        ({"downsample": 3}, "downsample is 3"),
        ({"height": 239, "downsample": 2}, "a frame of 239x304 px"),
        ({"representation": "voxel"}, "representation is 'voxel', expected count or last-polarity"),
    ],
)
def test_impossible_settings_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        HistogramSettings(**wrong)


@settings(deadline=None)
@given(st.integers(-(10**6), 10**8), st.integers(1, 3000), st.integers(1, 12), st.integers(0, 2999))
def test_edges_hold_exactly_the_events_of_the_floor_rule(start_us, window_us, steps, elapsed_us):
    elapsed_us %= window_us
    edges = bin_edges(start_us, window_us, steps)
    assert edges[0] == start_us
    assert edges[-1] == start_us + window_us
    step = elapsed_us * steps // window_us
    assert edges[step] <= start_us + elapsed_us < edges[step + 1]
