"""Times that step back: late packets sorted, impossible times left out, torn clocks named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen1.clock import BLOCK, FEW, LATE_US, NEAR_US
from gen1.dat import DatReader
from gen1.recordings import main as verify
from preprocessing.histogram import HistogramSettings, window_histogram

HEADER = b"% Version 2\n% Height 240\n% Width 304\n\x00\x08"
SETTINGS = HistogramSettings(window_us=250_000)
N = 3 * BLOCK


def written(tmp_path, times_us, tail=b""):
    """A recording of these times, at random pixels that only the place in `times_us` decides."""
    table = np.empty((len(times_us), 2), "<u4")
    table[:, 0] = np.asarray(times_us, np.int64) % 2**32
    rng = np.random.default_rng(5)
    x, y, p = (rng.integers(0, high, len(times_us)) for high in (304, 240, 2))
    table[:, 1] = x | y << 14 | p << 28
    path = tmp_path / "r_td.dat"
    path.write_bytes(HEADER + table.tobytes() + tail)
    return DatReader(path)


def line(n=N, seconds=3.0, start_us=0):
    """Times of n events, ascending."""
    rng = np.random.default_rng(n)
    return np.sort(start_us + rng.integers(0, int(seconds * 1e6), n))


def assert_same_windows(reader, others_packed_times):
    """Every way to read a window agrees with these true times of the events in the file."""
    t_us, rows = others_packed_times
    order = np.argsort(t_us, kind="stable")
    t_us, rows = t_us[order], rows[order]
    starts_us = np.arange(t_us[0] - 100_000, t_us[-1] + 1, 250_000)
    assert len(starts_us) < 100
    for start_us in starts_us.tolist():
        first, last = np.searchsorted(t_us, [start_us, start_us + 250_000])
        events = reader.window(start_us, start_us + 250_000)
        np.testing.assert_array_equal(events["t"], t_us[first:last])
        np.testing.assert_array_equal(events["x"], (rows[first:last] >> 32 & 0x3FFF).astype(int))
        assert reader.index_at(start_us) == first
        frames, tally = window_histogram(reader, start_us, SETTINGS)
        assert tally.events == last - first == frames.sum(dtype=int) + tally.clipped
    assert (reader.order.first_us, reader.order.last_us) == (t_us[0], t_us[-1])
    assert reader.duration_us == t_us[-1] - t_us[0] + 1
    assert reader.index_at(2**60) == len(t_us) == reader.n_events - reader.order.left_out


LATE = {
    "a packet late by 10 ms": (5_000, 6_200, 600),
    "a packet late by 250 ms": (5_000, 26_000, 5_000),
    "over two borders of blocks": (BLOCK - 9_000, 2 * BLOCK + 50, 9_500),
    "at the very start": (0, 20_000, 9_000),
    "at the very end": (N - 20_000, N, 9_000),
    "of a few events": (100, 20_000, FEW + 4),
}


@pytest.mark.parametrize("start_us", [0, 600_000_000, 2**32 - 1_500_000])
@pytest.mark.parametrize(("first", "last", "late"), LATE.values(), ids=LATE)
def test_a_late_packet_is_read_in_its_place(tmp_path, first, last, late, start_us):
    t_us, places = line(start_us=start_us), np.arange(N)
    places[first:last] = np.roll(places[first:last], -late)  # the first ones are written last
    reader = written(tmp_path, t_us[places])
    assert reader.order.left_out == 0
    assert reader.order.moved <= late
    assert reader.order.moved >= late - np.sum(t_us[first:last] == t_us[first + late - 1])
    assert_same_windows(reader, (t_us[places], reader.packed))


def test_events_that_jitter_are_read_in_order(tmp_path):
    t_us = line()
    t_us = np.maximum(t_us - np.random.default_rng(0).integers(0, 3, N) * 4_000, 0)
    reader = written(tmp_path, t_us)
    assert reader.order.moved == np.sum(t_us < np.maximum.accumulate(t_us)) > N / 2
    assert_same_windows(reader, (t_us, reader.packed))


PLACES = {
    "first": [0],
    "last": [N - 1],
    "around a border": [BLOCK - 1, 2 * BLOCK],
    "scattered": [5, 60, 9_000, 40_000, BLOCK + 7, N - 30],
    "a few in a row": list(range(777, 777 + FEW)),
    "the last few": list(range(N - 3, N)),
}


def noisy(kind, n):
    """n times of u32 that belong to no recording here."""
    rng = np.random.default_rng(1)
    values = {"noise": rng.integers(1_000_000_000, 2**31, n), "zero": 0, "high": 4_000_000_000}
    return values.get(kind, kind)


@pytest.mark.parametrize("start_us", [500_000_000, 2**32 - 2_000_000])
@pytest.mark.parametrize("kind", [1_600_000_000, "zero", "high", "noise"])
@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_impossible_times_are_left_out(tmp_path, places, kind, start_us):
    t_us = line(start_us=start_us)
    stored, kept = t_us.copy(), np.ones(N, bool)
    stored[places], kept[places] = noisy(kind, len(places)), False
    if np.any((stored[places] - start_us) % 2**32 < 2**29):
        pytest.skip("near in time, after or before the wrap")
    reader = written(tmp_path, stored)
    assert (reader.order.moved, reader.order.left_out) == (0, len(places))
    assert_same_windows(reader, (t_us[kept], reader.packed[kept]))


@pytest.mark.parametrize("step_us", [-NEAR_US - 20_000, 130_000, -900_000, 2**21])
def test_a_lone_time_off_by_a_bit_is_left_out_in_a_dense_recording(tmp_path, step_us):
    t_us = line()
    stored, kept = t_us.copy(), np.arange(N) != 80_000
    stored[80_000] += step_us
    reader = written(tmp_path, stored)
    assert (reader.order.moved, reader.order.left_out) == (0, 1)
    assert_same_windows(reader, (t_us[kept], reader.packed[kept]))


def half(again_us):
    t_us = line(40_000, 2.0)
    return np.concatenate([t_us[:20_000], again_us + t_us[:20_000]])


BROKEN = {
    "the whole twice": (np.tile(line(40_000, 2.0), 2), b"", "clock set back from 1999"),
    "back to 0 half way": (half(0), b"", "clock set back from"),
    "back by half a second": (half(500_000), b"", "clock set back from"),
    "back from late": (600_000_000 + half(-400_000_000), b"", "clock set back from"),
    "short": (np.tile(line(9000, 0.4), 2), b"", "clock set back from"),
    "ahead, then back": (half(9_000_000)[::-1][:30_000][::-1], b"", None),
    "zeros": (
        line(20_000, 1.0),
        bytes(160_000),
        "filled with zeros from about event 20000 of 40000",
    ),
    "zeros, late": (line(20_000, 1.0, 600_000_000), bytes(8_000), "filled with zeros"),
    "zeros, short": (line(20_000, 0.3), bytes(80), "filled with zeros"),
    "noise": (np.random.default_rng(0).integers(0, 2**31, 5000), b"", "impossible times"),
}


def is_sorted(reader):
    order = reader.order
    return order.moved == order.left_out == order.wraps == 0


@pytest.mark.parametrize(("times_us", "tail", "sentence"), BROKEN.values(), ids=BROKEN)
def test_a_torn_clock_is_named(tmp_path, times_us, tail, sentence):
    reader = written(tmp_path, times_us, tail)
    if sentence is None:  # a clock that jumps ahead and stays there is none
        assert is_sorted(reader)
        return
    with pytest.raises(ValueError, match=sentence) as error:
        _ = reader.order
    assert str(error.value).startswith(f"{reader.path}: ")
    assert "expected" in str(error.value)
    (tmp_path / "train").mkdir()
    reader.path.rename(tmp_path / "train" / "r_td.dat")
    assert verify(["verify", "--deep", str(tmp_path)]) == 1


@pytest.mark.parametrize("zeros", [1, 2, FEW])
def test_a_few_zeros_at_the_end_are_left_out(tmp_path, zeros):
    t_us = line(20_000, 1.0)
    reader = written(tmp_path, t_us, bytes(8 * zeros))
    assert (reader.order.moved, reader.order.left_out) == (0, zeros)
    assert_same_windows(reader, (t_us, reader.packed[:20_000]))


def test_silence_is_legal_wherever_it_is(tmp_path):
    for gap_us in (200_000, LATE_US + 1, 3_000_000_000):
        t_us = line(30_000, 1.0)
        t_us[12_345:] += gap_us
        assert is_sorted(written(tmp_path, t_us))


def test_equal_times_keep_their_order(tmp_path):
    t_us = np.repeat(line(3_000), 7)
    reader = written(tmp_path, t_us)
    assert is_sorted(reader)
    places = np.arange(len(t_us))
    places[700:1400] = np.roll(places[700:1400], 350)
    reader = written(tmp_path, t_us[places])
    assert_same_windows(reader, (t_us[places], reader.packed))


@pytest.mark.parametrize("before", [1, 3, 40, 50_000])
def test_the_counter_wraps_with_late_events_around(tmp_path, before):
    t_us = 2**32 - before + np.arange(100_000)
    places = np.arange(100_000)
    places[before - 1 : before + 60] = np.roll(places[before - 1 : before + 60], 25)
    if before < 40:  # the first event gives the clock its first lap
        places[[0, 1]] = 0, 1
        places = np.unique(places)
    reader = written(tmp_path, t_us[places])
    assert (reader.order.wraps, reader.order.left_out) == (1, 0)
    assert_same_windows(reader, (t_us[places], reader.packed))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_whatever_order_jitter_makes_is_undone(tmp_path_factory, data):
    """Few events, any gaps, a wrap or not; delays up to NEAR_US."""
    gaps = data.draw(st.lists(st.integers(0, 60_000) | st.just(2**30), min_size=1, max_size=40))
    t_us = np.cumsum([data.draw(st.sampled_from([0, 5, 2**32 - 90_000])), *gaps])
    late_us = data.draw(st.lists(st.sampled_from([0, 0, NEAR_US]), min_size=len(t_us), max_size=41))
    places = np.argsort(t_us + np.array(late_us)[: len(t_us)], kind="stable")
    if places[0] != 0 or np.any(np.diff(t_us) > 2**29):
        places = np.arange(len(t_us))
    reader = written(tmp_path_factory.mktemp("jitter"), t_us[places])
    events = reader.window(-1, 2**60)
    np.testing.assert_array_equal(events["t"], t_us)
    for probe in np.concatenate([t_us - 1, t_us, t_us + 1]).tolist():
        assert reader.index_at(probe) == np.searchsorted(t_us, probe)
