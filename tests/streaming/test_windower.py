"""Windows of a stream equal the histograms of its recording, however the events arrive."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gen1.clock import FEW
from gen1.dat import DatReader, write_dat
from gen1.spec import EVENT
from preprocessing.build import stride_times
from preprocessing.histogram import (
    HistogramSettings,
    event_histogram,
    last_polarity,
    window_histogram,
)
from streaming.windower import MAX_GAP_US, Windower

TRUTH = {"count": event_histogram, "last-polarity": last_polarity}
SENSOR = {"height": 16, "width": 24}
SMALL = HistogramSettings(1000, 3, **SENSOR)  # 3 does not divide the window


def make_events(n, duration_us, seed=0, height=18, width=27):
    """Sorted EVENT [n]; some lie outside a frame of 16x24 px, some share their time."""
    rng = np.random.default_rng(seed)
    events = np.zeros(n, EVENT)
    events["t"] = np.sort(rng.integers(0, duration_us, n))
    events["x"], events["y"] = rng.integers(0, width, n), rng.integers(0, height, n)
    events["p"] = rng.integers(0, 2, n)
    return events


def at(*times_us):
    """One OFF event in the corner at each of these times, in this order."""
    events = np.zeros(len(times_us), EVENT)
    events["t"] = times_us
    return events


def stream(windower, events, cuts=()):
    """All windows of events that arrive in chunks cut at these places, then end."""
    chunks = np.split(events, sorted(cuts))
    found = [w for chunk in chunks for w in windower.windows(chunk)]
    return [*found, *windower.last_windows()]


def truth(events, end_us, settings):
    window = (end_us - settings.window_us, settings.window_us, settings.time_steps)
    size = (settings.height, settings.width, settings.downsample)
    return TRUTH[settings.representation](events, *window, *size)


def assert_equal(windows, others):
    assert [w.end_us for w in windows] == [w.end_us for w in others]
    for window, other in zip(windows, others, strict=True):
        np.testing.assert_array_equal(window.histogram, other.histogram)
        assert window.tally == other.tally


@pytest.mark.parametrize("every_us", [1000, 400, 333, 1700])
@pytest.mark.parametrize("downsample", [1, 4])
@pytest.mark.parametrize("representation", TRUTH)
def test_windows_equal_those_of_the_recording(tmp_path, representation, downsample, every_us):
    settings = HistogramSettings(1000, 3, representation, downsample, **SENSOR)
    events = make_events(5000, 7001)
    write_dat(tmp_path / "a.dat", events, 18, 27)
    reader = DatReader(tmp_path / "a.dat")
    windows = stream(Windower(settings, every_us), events, range(0, 5000, 700))
    order = reader.order
    expected = stride_times(order.first_us, order.last_us, every_us)
    assert [w.end_us for w in windows] == expected.tolist()
    for window in windows:
        frames, tally = window_histogram(reader, window.start_us, settings)
        np.testing.assert_array_equal(window.histogram, frames)
        np.testing.assert_array_equal(window.histogram, truth(events, window.end_us, settings))
        assert window.tally == tally
        assert window.n_events == len(reader.window(window.start_us, window.end_us))


def test_a_full_cell_is_clipped():
    events = np.zeros(700, EVENT)
    events["t"], events["p"] = 400, 1
    (window,) = Windower(SMALL, 1000, start_us=0).windows(np.append(events, at(1000)))
    assert window.histogram[1, 1, 0, 0] == window.histogram.sum() == 255
    assert (window.tally.counted, window.tally.clipped) == (255, 445)


@given(
    cuts=st.lists(st.integers(0, 400), max_size=12),
    every_us=st.integers(1, 900).map(lambda n: 10 * n),
    jitter_us=st.sampled_from([0, 30, 2500]),
    seed=st.integers(0, 99),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_any_chunking_gives_the_same_windows(cuts, every_us, jitter_us, seed):
    events = make_events(400, 9000, seed)
    events["t"] += np.random.default_rng(seed).integers(0, jitter_us + 1, 400)  # out of order
    whole, cut = Windower(SMALL, every_us), Windower(SMALL, every_us)
    assert_equal(stream(whole, events), stream(cut, events, cuts))
    assert whole.late_events == cut.late_events


def test_single_events_give_the_same_windows():
    events = make_events(2000, 6000)
    single = stream(Windower(SMALL, 250), events, range(2000))
    assert len(single) > 20
    assert_equal(stream(Windower(SMALL, 250), events), single)


def test_a_window_waits_for_an_event_at_its_end_or_a_heartbeat():
    windower = Windower(SMALL, 500, start_us=0)
    assert list(windower.windows(at(0, 499))) == []
    assert [w.end_us for w in windower.windows(at(500))] == [500]
    assert list(windower.windows_until(999)) == []
    assert [w.end_us for w in windower.windows_until(1000)] == [1000]
    assert list(windower.windows(at(1499))) == []
    assert [w.n_events for w in windower.last_windows()] == [2]  # those at 500 and 1499
    assert list(windower.last_windows()) == []


def test_silence_yields_empty_windows():
    windows = list(Windower(SMALL, 500, start_us=0).windows(at(3100)))
    assert [w.end_us for w in windows] == [500, 1000, 1500, 2000, 2500, 3000]
    assert not any(w.n_events or w.histogram.any() for w in windows)
    assert windows[0].histogram.shape == SMALL.frame_shape


@pytest.mark.parametrize("start_us", [0, 123_456_789, 2**40])
def test_windows_begin_with_the_first_event_whenever_that_is(start_us):
    windows = list(Windower(SMALL, 500).windows(at(start_us, start_us + 511)))
    found = [(w.start_us - start_us, w.end_us - start_us, w.n_events) for w in windows]
    assert found == [(-500, 500, 1)]
    assert list(Windower(SMALL, 500).last_windows()) == []
    assert [w.end_us for w in Windower(SMALL, 500, start_us=70).windows(at(1100))] == [
        570,
        1070,
    ]


def test_late_events_count_in_open_windows_and_are_dropped_after_them():
    windower = Windower(SMALL, 500, start_us=0)  # windows of 1000 us: the open one goes to 2000
    assert [w.n_events for w in windower.windows(at(100, 1600))] == [1, 1, 0]
    list(windower.windows(at(1200, 1599, 1000)))  # late, but the open window has them
    assert windower.late_events == 0
    list(windower.windows(at(999, 0)))
    assert windower.late_events == 2
    (window,) = windower.windows_until(2000)
    expected = event_histogram(at(1000, 1200, 1599, 1600), 1000, 1000, 3, 16, 24)
    np.testing.assert_array_equal(window.histogram, expected)


def test_late_events_keep_the_last_polarity():
    settings = HistogramSettings(1000, 1, "last-polarity", **SENSOR)
    events = at(300, 200, 300)
    events["p"] = 1, 0, 0  # of equal times the later arrival wins, not the latest arrival
    (window,) = stream(Windower(settings, 1000, start_us=0), np.append(events[:2], at(1000)))
    assert window.histogram[0, :, 0, 0].tolist() == [0, 1]
    (window,) = stream(Windower(settings, 1000, start_us=0), np.append(events, at(1000)))
    assert window.histogram[0, :, 0, 0].tolist() == [1, 0]
    events = make_events(3000, 900)
    events["t"] = np.random.default_rng(5).permutation(events["t"]) // 100 * 100
    (window,) = stream(Windower(settings, 1000, start_us=0), np.append(events, at(1000)))
    np.testing.assert_array_equal(window.histogram, truth(events, 1000, settings))


def test_events_between_windows_belong_to_none_and_are_not_late():
    windower = Windower(HistogramSettings(100, 1, **SENSOR), 1000, start_us=0)
    assert [w.n_events for w in windower.windows(at(1, 899, 900, 999, 1000))] == [2]
    assert windower.late_events == 0


def test_noise_is_left_out_as_in_a_cache(tmp_path):
    settings = HistogramSettings(1000, 3, **SENSOR, denoise_us=40, hot_pixel_hz=1.0)
    events = make_events(5000, 7000)
    hot = np.random.default_rng(1).random((16, 24)) < 0.1
    write_dat(tmp_path / "a.dat", events, 18, 27)
    reader = DatReader(tmp_path / "a.dat")
    windows = stream(Windower(settings, 400, start_us=0, hot=hot), events, range(0, 5000, 37))
    assert len(windows) == 17
    for window in windows:
        frames, tally = window_histogram(reader, window.start_us, settings, hot)
        np.testing.assert_array_equal(window.histogram, frames)
        assert window.tally == tally
    assert 0 < sum(w.tally.filtered for w in windows) < sum(w.n_events for w in windows)


def test_memory_follows_the_window_not_the_stream():
    windower = Windower(SMALL, 250)
    kept, fullest = [], 0
    for window in windower.windows(make_events(80_000, 320_000)):
        kept.append(windower._t_us.nbytes + windower._packed.nbytes)
        fullest = max(fullest, window.n_events)
    assert len(kept) > 1200
    assert max(kept) <= 2 * 16 * fullest


def test_reset_forgets_events_and_counters():
    windower = Windower(SMALL, 500)
    list(windower.windows(at(10_000, 20_000, 5)))
    windower.reset()
    assert windower.late_events == 0
    assert [(w.end_us, w.n_events) for w in windower.windows(at(7, 600))] == [(507, 1)]


def test_what_cannot_be_windows_is_refused():
    with pytest.raises(ValueError, match="every_us is 0"):
        Windower(SMALL, 0)
    with pytest.raises(ValueError, match="needs a whole recording"):
        Windower(HistogramSettings(hot_pixel_hz=5.0), 50_000)
    with pytest.raises(ValueError, match=r"hot pixels of \(2, 2\) px"):
        Windower(SMALL, 500, hot=np.zeros((2, 2), bool))
    windower = Windower(SMALL, 500)
    minus_one = at(3).astype([("t", "i8"), ("x", "i2"), ("y", "i2"), ("p", "i1")])
    minus_one["p"] = -1
    with pytest.raises(ValueError, match="p from -1 to -1, expected 0 or 1"):
        list(windower.windows(minus_one))
    with pytest.raises(ValueError, match="expected integers t, x, y, p"):
        list(windower.windows(np.zeros(3, [("t", "f8"), ("x", "i2"), ("y", "i2"), ("p", "i1")])))


def test_pixels_beyond_any_sensor_are_out_of_frame():
    events = at(1, 2, 3, 500).astype([("t", "i8"), ("x", "i4"), ("y", "i4"), ("p", "u1")])
    events["x"], events["y"] = [-1, 1 << 14, 5, 0], [5, 5, 1 << 20, 0]
    (window,) = Windower(SMALL, 500, start_us=0).windows(events)
    assert (window.tally.out_of_frame, window.tally.counted) == (3, 0)


@pytest.mark.parametrize("chunks", [1, 4])
def test_a_clock_that_was_set_is_an_error_that_reset_ends(chunks):
    """A u32 clock that overflows must neither pass nor hang."""
    for new_us in (10**15, 10**9 - MAX_GAP_US - 10**7):
        windower, made = Windower(SMALL, 500), []
        steps = range(FEW + 1)
        events = at(*(10**9 + 50 * i for i in range(13)), *(new_us + i for i in steps))
        windows = (
            w for chunk in np.split(events, range(1, chunks)) for w in windower.windows(chunk)
        )
        with pytest.raises(ValueError, match=f"went from .* to {str(new_us)[:-1]}. us, .* reset"):
            made.extend(window.end_us for window in windows)
        assert made == [10**9 + 500]
        windower.reset()
        (window, *_) = windower.windows(at(new_us, new_us + 1000))
        assert window.n_events == 1


def test_a_recording_shorter_than_a_window_has_windows_shorter_than_the_stride_has_none():
    events = at(10, 700)
    (window,) = stream(Windower(SMALL, 500, start_us=0), events)
    assert (window.start_us, window.end_us, window.n_events) == (-500, 500, 1)
    np.testing.assert_array_equal(window.histogram, truth(events, 500, SMALL))
    assert stream(Windower(SMALL, 701, start_us=0), events)[0].n_events == 2
    assert stream(Windower(SMALL, 702, start_us=0), events) == []


def camera(n=2000, start_us=0):
    """An event every 5 us, at pixels of its own."""
    events = make_events(n, 10**6)
    events["t"] = start_us + 5 * np.arange(n)
    return events


@pytest.mark.parametrize("chunk", [9, 10_000])
@pytest.mark.parametrize("start_us", [0, 700_000_000])
@pytest.mark.parametrize("step_us", [150_000, 10**9, 4 * 10**9, -700_000_000])
@pytest.mark.parametrize("places", [[700], [20, 700, 1500], range(900, 900 + FEW), [1999]])
def test_impossible_times_leave_the_other_windows_as_they_are(start_us, step_us, places, chunk):
    events = camera(start_us=start_us)
    stray = np.isin(np.arange(len(events)), list(places))
    broken = events.copy()
    broken["t"][stray] += step_us
    windower = Windower(SMALL, 500)
    found = stream(windower, broken, range(0, len(events), chunk))
    if places == [1999] and step_us == 150_000:  # the last one may as well follow a silence
        found = found[: len(events) * 5 // 500 - 1]
        assert windower.left_out == 0
    else:
        assert windower.left_out + windower.late_events == len(list(places))
    assert_equal(found, stream(Windower(SMALL, 500), events[~stray])[: len(found)])
    assert len(found) >= 19


def test_the_first_time_may_be_the_impossible_one():
    for wrong_us in (0, 4 * 10**9):
        events = camera(start_us=900_000_000)
        events["t"][0] = wrong_us
        windower = Windower(SMALL, 500)
        found = stream(windower, events, range(0, 2000, 50))
        assert_equal(found, stream(Windower(SMALL, 500), events[1:]))
        assert windower.left_out == 1


@pytest.mark.parametrize("chunk", [7, 10_000])
@pytest.mark.parametrize("gap_us", [150_000, 3_000_000])
def test_silence_is_believed_once_events_go_on_or_a_heartbeat_says_so(gap_us, chunk):
    events = camera(start_us=5)
    events["t"][1000:] += gap_us
    found = stream(Windower(SMALL, 500), events, range(0, 2000, chunk))
    assert sum(w.n_events for w in found if (w.end_us - 5) % 1000 == 0) >= 1700
    assert [w.end_us for w in found] == list(range(505, int(events["t"][-1]) + 2, 500))
    windower = Windower(SMALL, 500)
    list(windower.windows(events[:1001]))
    assert list(windower.windows_until(int(events["t"][1000]) + 1))[-1].end_us > gap_us
    assert windower.left_out == 0


@pytest.mark.parametrize("late", [200, 60])
def test_a_late_packet_counts_where_a_window_is_still_open(late):
    events, places = camera(), np.arange(2000)
    places[900 : 900 + 2 * late] = np.roll(places[900 : 900 + 2 * late], -late)
    windower = Windower(HistogramSettings(10_000, 2, **SENSOR), 10_000)
    found = stream(windower, events[places])
    assert_equal(found, stream(Windower(windower.settings, 10_000), events))
    assert windower.late_events == windower.left_out == 0
