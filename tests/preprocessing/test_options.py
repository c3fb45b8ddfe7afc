"""Options of `python -m preprocessing` beyond the size of a histogram."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gen1.dat import DatReader, write_dat
from gen1.labels import read_boxes, write_boxes
from gen1.spec import BOX, EVENT, GEN1
from preprocessing.__main__ import main
from preprocessing.build import stride_times
from preprocessing.cache import open_cache, read_header, read_manifest
from preprocessing.dataset import HistogramDataset
from preprocessing.geometry import Geometry
from preprocessing.histogram import HistogramSettings, event_histogram

HEIGHT, WIDTH = GEN1.sensor_hw


def run(data: Path, cache: Path, *options: str) -> int:
    return main(["--input", str(data), "--output", str(cache), *options])


def test_strides_need_no_labels(tree, tmp_path):
    data, cache = tree(train=1), tmp_path / "cache"
    (data / "train" / "r0_bbox.npy").unlink()
    assert run(data, cache) == 1
    assert run(data, cache, "--every-ms", "200", "--window-ms", "100") == 0
    events = DatReader(data / "train" / "r0_td.dat").read()
    dataset = HistogramDataset(cache, "train", Geometry())
    first_us = int(events["t"][0])
    ends_us = [dataset[i].t_us for i in range(len(dataset))]
    assert ends_us == [first_us + t for t in (200_000, 400_000, 600_000, 800_000)]
    expected = event_histogram(events, first_us + 300_000, 100_000, 4, HEIGHT, WIDTH)
    np.testing.assert_array_equal(dataset[1].frames[..., :HEIGHT, :WIDTH], expected)
    assert len(dataset[1].targets) == len(dataset.labels("r0")) == 0


@pytest.mark.parametrize(
    ("last_us", "expected"), [(-1, []), (8, []), (9, [10]), (28, [10, 20]), (29, [10, 20, 30])]
)
@pytest.mark.parametrize("first_us", [0, 7, 600_000_003])
def test_stride_times_begin_and_end_with_the_recording(first_us, last_us, expected):
    found = stride_times(first_us, first_us + last_us, 10)
    assert (found - first_us).tolist() == expected


def test_times_without_a_label_that_counts_are_left_out(tree, tmp_path):
    data, cache = tree(train=1), tmp_path / "cache"
    assert run(data, cache, "--keep", "prophesee") == 0
    with open_cache(cache / "train" / "r0.h5") as file:
        # 99999 and 349999 are within the skipped half second; 599999 has a large box
        assert file["times_us"][:].tolist() == [599_999, 849_999]
        np.testing.assert_array_equal(file["labels"][:], read_boxes(data / "train" / "r0_bbox.npy"))


@pytest.mark.parametrize(("t_us", "kept"), [(849_999, [849_999]), (799_999, [])])
def test_times_without_a_label_of_rvt_are_left_out(tree, tmp_path, t_us, kept):
    """599999 has only a box out of the frame; the grid begins at 349999."""
    data, cache = tree(train=1), tmp_path / "cache"
    boxes = read_boxes(data / "train" / "r0_bbox.npy")
    boxes["t"][-1] = t_us
    write_boxes(data / "train" / "r0_bbox.npy", boxes)
    assert run(data, cache, "--keep", "rvt") == 0
    with open_cache(cache / "train" / "r0.h5") as file:
        assert file["times_us"][:].tolist() == kept


@pytest.mark.parametrize(
    ("factor", "offset_us", "suspicion"),
    [(1e-3, 0, "milliseconds"), (1, 0, ""), (1, 10**9, "expected labels of a recording from")],
)
@pytest.mark.parametrize("options", [[], ["--every-ms", "100"]])
def test_labels_that_cannot_be_those_of_the_recording_fail_it(
    tree, tmp_path, capsys, factor, offset_us, suspicion, options
):
    data = tree(train=2)
    path = data / "train" / "r1_bbox.npy"
    boxes = read_boxes(path)
    boxes["t"] = (boxes["t"] + 1) * factor + offset_us
    write_boxes(path, boxes)
    assert run(data, tmp_path / "cache", *options) == (1 if suspicion else 0)
    error = capsys.readouterr().err
    assert (f"{path}: all labels lie between" in error) == bool(suspicion)
    assert suspicion in error
    recordings = read_manifest(tmp_path / "cache").recordings["train"]
    assert list(recordings) == (["r0"] if suspicion else ["r0", "r1"])


def test_noise_options_reach_the_frames_the_report_and_the_settings(tree, tmp_path, capsys):
    data = tree(train=1)
    for i, options in enumerate((["--denoise-ms", "5"], ["--hot-pixel-hz", "4"])):
        cache = tmp_path / f"cache{i}"
        assert run(data, cache, *options) == 0
        filtered = int(
            capsys.readouterr().out.split(" events left out as noise")[0].split("\n")[-1]
        )
        with open_cache(cache / "train" / "r0.h5") as file:
            report = read_header(file).report
            assert report.tally.filtered == filtered > 100
            assert report.tally.counted == file["frames"][:].sum()
    expected = replace(HistogramSettings(), hot_pixel_hz=4.0)
    assert read_manifest(tmp_path / "cache1").settings == expected
    assert run(data, tmp_path / "cache1") == 1
    assert "hot_pixel_hz 4.0, expected 0.0" in capsys.readouterr().err


def test_events_per_window_are_reported(tree, tmp_path, capsys):
    data = tree(train=1)
    path = data / "train" / "r0_td.dat"
    events = DatReader(path).read()
    write_dat(path, events[events["t"] < 550_000], HEIGHT, WIDTH)
    assert run(data, tmp_path / "cache") == 0
    times_us = np.array([99_999, 349_999, 599_999, 849_999])
    t_us = DatReader(path).read()["t"]
    counts = [int(((t_us >= end - 250_000) & (t_us < end)).sum()) for end in times_us]
    text = capsys.readouterr().out
    assert f"events per window: 0 to {max(counts)}, {int(np.median(counts))} in the" in text
    assert "1 window without any event" in text
    report = read_manifest(tmp_path / "cache").recordings["train"]["r0"]
    names = ("fewest_events", "median_events", "most_events", "empty_windows")
    assert [report[name] for name in names] == [0, int(np.median(counts)), max(counts), 1]


def test_a_dry_run_writes_nothing_and_knows_the_size(tree, tmp_path, capsys):
    data, cache = tree(train=4, val=2), tmp_path / "cache"
    assert run(data, cache, "--dry-run") == 0
    text = capsys.readouterr().out
    assert not cache.exists()
    assert text.startswith("6 recordings, about 24 windows: ")
    assert run(data, cache) == 0
    size = sum(path.stat().st_size for path in cache.rglob("*.h5"))
    assert float(text.split(": ")[1].split(" MiB")[0]) == pytest.approx(
        size / 2**20, rel=0.02, abs=0.1
    )


def test_a_cache_made_before_an_option_existed_is_one_without_it(tree, tmp_path):
    data, cache = tree(train=1), tmp_path / "cache"
    assert run(data, cache) == 0
    manifest = json.loads((cache / "manifest.json").read_text())
    for name in ("every_us", "keep", "denoise_us", "hot_pixel_hz"):
        del manifest["settings"][name]
    (cache / "manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(cache).settings == HistogramSettings()


def test_the_1_mpx_layout_at_half_resolution(tmp_path):
    rng = np.random.default_rng(0)
    events = np.zeros(5000, EVENT)
    events["t"] = np.sort(rng.integers(0, 300_000, 5000))
    events["x"], events["y"] = rng.integers(0, 1280, 5000), rng.integers(0, 720, 5000)
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    write_dat(folder / "m_td.dat", events, 720, 1280)
    boxes = np.zeros(1, BOX)
    boxes[0] = (280_000, 100, 200, 300, 250, 1, 1, 0)
    write_boxes(folder / "m_bbox.npy", boxes, layout="1mpx")
    size = ("--height", "720", "--width", "1280", "--downsample", "2")
    assert run(tmp_path / "data", tmp_path / "cache", *size) == 0
    geometry = Geometry(720, 1280, downsample=2)
    dataset = HistogramDataset(tmp_path / "cache", "train", geometry)
    assert dataset[0].frames.shape == (4, 2, 384, 640)
    expected = event_histogram(events, 30_000, 250_000, 4, 720, 1280, downsample=2)
    np.testing.assert_array_equal(dataset[0].frames[..., :360, :], expected)
    assert dataset[0].targets.tolist() == [[1, 50, 100, 200, 225]]


@pytest.mark.parametrize("start_us", [0, 123_456_789, 600_000_000, 2**32 - 300_000])
def test_nothing_depends_on_when_the_clock_started(tree, tmp_path, start_us):
    """Windows, hot pixels and strides of a recording whose first event is at start_us."""
    data, frames = tree(train=1), []
    path = data / "train" / "r0_td.dat"
    (data / "train" / "r0_bbox.npy").unlink()
    events = DatReader(path).read()
    events["t"] -= events["t"][0]
    events["x"][::20], events["y"][::20] = 7, 9  # a hot pixel: one event of twenty
    for shift_us in (0, start_us):
        shifted = events.copy()
        shifted["t"] = (events["t"] + shift_us) % 2**32
        write_dat(path, shifted, HEIGHT, WIDTH)
        cache = tmp_path / f"cache{len(frames)}"
        rate_hz = len(events) / 30 / (events["t"][-1] * 1e-6)
        options = ("--every-ms", "200", "--window-ms", "100", "--hot-pixel-hz", str(rate_hz))
        assert run(data, cache, *options) == 0
        report = next(iter(read_manifest(cache).recordings["train"].values()))
        assert report["tally"]["filtered"] > 0
        with open_cache(cache / "train" / "r0.h5") as file:
            frames.append((file["times_us"][:] - shift_us, file["frames"][:]))
    for before, after in zip(*frames, strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_recording_mostly_beyond_the_frame_fails_by_name(tree, tmp_path, capsys):
    data = tree(train=1)
    path = data / "train" / "r0_td.dat"
    for named in (b"% Width 304\n", b""):  # the header's frame, or that of the options
        events = DatReader(path).read()
        events["x"] = np.where(np.arange(len(events)) % 9, 305, events["x"])
        write_dat(path, events, HEIGHT, 400)
        path.write_bytes(path.read_bytes().replace(b"% Width 400\n", named, 1))
        assert run(data, tmp_path / "cache") == 1
        assert "r0_td.dat: " in (error := capsys.readouterr().err)
        assert "lie beyond 240x304 px, expected few" in error
        assert not list((tmp_path / "cache").rglob("*.h5"))
