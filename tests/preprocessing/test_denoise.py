"""Noise filtering equals its definition, tonic's, and does not depend on the window."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gen1.dat import DatReader, write_dat
from gen1.spec import EVENT
from preprocessing.denoise import hot_pixels, kept_events
from preprocessing.histogram import HistogramSettings, event_histogram, window_histogram

HEIGHT, WIDTH = 8, 10
NO_HOT = np.zeros((HEIGHT, WIDTH), bool)


def recording(folder, events: np.ndarray) -> DatReader:
    write_dat(folder / "a.dat", events, HEIGHT, WIDTH)
    return DatReader(folder / "a.dat")


def random_events(n: int, duration_us: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    events = np.zeros(n, EVENT)
    events["t"] = np.sort(rng.integers(0, duration_us, n))
    events["x"], events["y"] = rng.integers(0, WIDTH, n), rng.integers(0, HEIGHT, n)
    events["p"] = rng.integers(0, 2, n)
    return events


def slow_kept(events: np.ndarray, denoise_us: int) -> np.ndarray:
    """The definition, event by event against all earlier ones."""
    kept = []
    for i, (t, x, y, _) in enumerate(events.tolist()):
        before = events[:i]
        distance = abs(before["x"].astype(int) - x) + abs(before["y"].astype(int) - y)
        kept.append(bool(np.any((distance == 1) & (t - before["t"] < denoise_us))))
    return np.array(kept, bool)


@given(st.integers(0, 10**6), st.integers(0, 150), st.integers(1, 400), st.integers(0, 900))
@settings(max_examples=60, deadline=None)
def test_every_window_keeps_what_the_whole_recording_would(
    tmp_path_factory, seed, n, denoise_us, start_us
):
    events = random_events(n, 1000, seed)
    reader = recording(tmp_path_factory.mktemp("denoise"), events)
    in_window = (events["t"] >= start_us) & (events["t"] < start_us + 300)
    kept = kept_events(reader, start_us, start_us + 300, denoise_us, NO_HOT)
    np.testing.assert_array_equal(kept, slow_kept(events, denoise_us)[in_window])


def test_it_is_what_tonic_calls_denoise(tmp_path):
    from tonic.functional import denoise_numpy

    denoise_us = 3000
    events = random_events(3000, 1_000_000, seed=3)
    events["t"] += denoise_us  # tonic keeps everything before
    kept = kept_events(recording(tmp_path, events), 0, 2_000_000, denoise_us, NO_HOT)
    np.testing.assert_array_equal(events[kept], denoise_numpy(events, denoise_us))
    assert 0.1 < kept.mean() < 0.9


def test_hot_pixels_are_those_above_the_rate(tmp_path):
    events = random_events(2000, 500_000, seed=1)
    events["x"][::2], events["y"][::2] = 3, 2
    reader = recording(tmp_path, events)
    hot = hot_pixels(reader, HEIGHT, WIDTH, 500.0)
    assert np.argwhere(hot).tolist() == [[2, 3]]
    assert not hot_pixels(reader, HEIGHT, WIDTH, 3000.0).any()


def test_histograms_are_of_the_events_that_stay(tmp_path):
    events = random_events(3000, 100_000, seed=2)
    events["x"][::3], events["y"][::3] = 3, 2
    reader = recording(tmp_path, events)
    hot = hot_pixels(reader, HEIGHT, WIDTH, 2000.0)
    size = (50_000, 3, "count", 2, HEIGHT, WIDTH)
    sizes = {"height": HEIGHT, "width": WIDTH, "downsample": 2}
    for denoise_us, mask in ((0, hot), (800, hot), (800, None)):
        options = HistogramSettings(*size, denoise_us=denoise_us)
        frames, tally = window_histogram(reader, 20_000, options, mask)
        left = events if mask is None else events[~mask[events["y"], events["x"]]]
        left = left[slow_kept(left, denoise_us)] if denoise_us else left
        expected = event_histogram(left, 20_000, 50_000, 3, **sizes)
        np.testing.assert_array_equal(frames, expected)
        in_window = ((events["t"] >= 20_000) & (events["t"] < 70_000)).sum()
        assert tally.events == in_window
        assert tally.filtered == in_window - expected.sum() > 0


def test_events_out_of_frame_support_nothing_and_are_still_counted(tmp_path):
    events = random_events(4, 10, seed=0)
    events["t"], events["p"] = [0, 1, 2, 3], 1
    events["x"], events["y"] = [WIDTH, WIDTH - 1, 4, 5], [2, 2, 5, 5]
    write_dat(tmp_path / "a.dat", events, HEIGHT, WIDTH + 1)
    reader = DatReader(tmp_path / "a.dat")
    size = HistogramSettings(100, 1, height=HEIGHT, width=WIDTH, denoise_us=50)
    frames, tally = window_histogram(reader, 0, size)
    assert np.argwhere(frames).tolist() == [[0, 1, 5, 5]]
    assert (tally.counted, tally.out_of_frame, tally.filtered) == (1, 1, 2)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"denoise_us": -1}, "denoise_us is -1, expected 0"),
        ({"hot_pixel_hz": -0.5}, "hot_pixel_hz is -0.5"),
        ({"every_us": -5}, "every_us is -5"),
        ({"keep": "rtv"}, "keep is 'rtv', expected one of prophesee, all-boxes"),
        ({"keep": "prophesee", "every_us": 9}, "both every_us and keep were given"),
    ],
)
def test_impossible_options_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        HistogramSettings(**wrong)
