"""`python -m preprocessing`: what it writes, what it survives and what it refuses."""

import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import preprocessing.build
from gen1.dat import DatReader, write_dat
from gen1.labels import read_boxes, write_boxes
from gen1.spec import BOX, GEN1
from preprocessing.__main__ import main
from preprocessing.cache import open_cache, read_header, read_manifest
from preprocessing.histogram import EventTally, event_histogram

HEIGHT, WIDTH = GEN1.sensor_hw

SIZE = ("--window-ms", "250", "--time-steps", "4")


def run(data: Path, cache: Path, *options: str) -> int:
    return main(["--input", str(data), "--output", str(cache), *SIZE, *options])


def contents(cache: Path) -> dict[str, bytes]:
    """Every file below cache, name -> bytes."""
    files = sorted(path for path in cache.rglob("*") if path.is_file())
    return {str(path.relative_to(cache)): path.read_bytes() for path in files}


def refused(capsys, code: int, *parts: str) -> None:
    """The run ended with one sentence on stderr that says these things, and exit code 1."""
    lines = [line for line in capsys.readouterr().err.split("\n") if "preprocessing: " not in line]
    assert code == 1
    assert [line[:7] for line in lines if line] == ["error: "]
    for part in parts:
        assert part in lines[0]


def test_the_cache_holds_the_true_histograms_labels_and_counts(tree, tmp_path, capsys):
    data = tree(train=2, val=1)
    assert run(data, tmp_path / "cache") == 0
    assert "3 recordings (0 already done), 12 windows" in capsys.readouterr().out
    for split, name in (("train", "r0"), ("train", "r1"), ("val", "r0")):
        reader = DatReader(data / split / f"{name}_td.dat")
        boxes = read_boxes(data / split / f"{name}_bbox.npy")
        with open_cache(tmp_path / "cache" / split / f"{name}.h5") as file:
            np.testing.assert_array_equal(file["labels"][:], boxes)
            assert file["times_us"][:].tolist() == [99_999, 349_999, 599_999, 849_999]
            assert file["frames"].chunks == (1, 4, 2, 240, 304)
            for t_us, frames in zip(file["times_us"][:], file["frames"][:], strict=True):
                start_us = int(t_us) - 250_000
                size = (250_000, 4, HEIGHT, WIDTH)
                expected = event_histogram(reader.read(), start_us, *size)
                np.testing.assert_array_equal(frames, expected)
            report = read_header(file).report
            assert (report.windows, report.events) == (4, 20_000)
            assert report.tally == EventTally(int(file["frames"][:].sum()), 0, 0)
    manifest = read_manifest(tmp_path / "cache")
    assert manifest.complete
    assert {split: list(names) for split, names in manifest.recordings.items()} == {
        "train": ["r0", "r1"],
        "val": ["r0"],
    }


def test_options_reach_the_frames(tree, tmp_path):
    data = tree(train=1)
    options = ("--representation", "last-polarity", "--downsample", "2", "--time-steps", "3")
    assert run(data, tmp_path / "cache", *options) == 0
    with open_cache(tmp_path / "cache" / "train" / "r0.h5") as file:
        assert file["frames"].shape == (4, 3, 2, 120, 152)
        assert file["frames"][:].max() == 1


def test_a_label_earlier_than_the_window_sees_the_past_only(tree, tmp_path):
    data = tree(train=1)
    run(data, tmp_path / "cache")
    events = DatReader(data / "train" / "r0_td.dat").read()
    with open_cache(tmp_path / "cache" / "train" / "r0.h5") as file:
        first = file["frames"][0]
    assert first.sum() == (events["t"] < 99_999).sum()  # no event is crowded out at this rate
    assert not first[:2].any()  # bins 0 and 1 lie before the recording


def test_any_number_of_workers_writes_the_same_bytes(tree, tmp_path):
    data = tree(train=3, test=1)
    assert run(data, tmp_path / "one") == 0
    assert run(data, tmp_path / "two", "--workers", "2") == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_running_again_changes_nothing_and_a_changed_source_is_made_again(tree, tmp_path, capsys):
    data, cache = tree(train=3), tmp_path / "cache"
    run(data, cache)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.h5")}
    assert run(data, cache) == 0
    assert "3 recordings (3 already done)" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.h5")} == before
    boxes = read_boxes(data / "train" / "r1_bbox.npy")
    write_boxes(data / "train" / "r1_bbox.npy", boxes[:2])
    (cache / "train" / "r2.h5").write_bytes(b"\x89HDF\r\n\x1a\n damaged")
    assert run(data, cache) == 0
    assert "3 recordings (1 already done), 10 windows" in capsys.readouterr().out
    changed = {path.name for path, mtime in before.items() if path.stat().st_mtime_ns != mtime}
    assert changed == {"r1.h5", "r2.h5"}


def test_other_settings_are_refused_unless_overwritten(tree, tmp_path, capsys):
    data, cache = tree(train=2), tmp_path / "cache"
    run(data, cache)
    before = contents(cache)
    capsys.readouterr()
    code = run(data, cache, "--window-ms", "100")
    refused(capsys, code, str(cache), "window_us 250000, expected 100000", "--overwrite")
    (cache / "manifest.json").unlink()
    code = run(data, cache, "--downsample", "2")
    refused(capsys, code, "r0.h5", "downsample 1, expected 2")
    assert run(data, cache) == 0
    assert contents(cache) == before
    assert run(data, cache, "--time-steps", "2", "--overwrite") == 0
    assert run(data, tmp_path / "fresh", "--time-steps", "2") == 0
    assert contents(cache) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("windows_before", [0, 1, 5, 7])
def test_ctrl_c_leaves_nothing_half_done(tree, tmp_path, monkeypatch, capsys, windows_before):
    data, cache = tree(train=2), tmp_path / "cache"
    run(data, tmp_path / "undisturbed")
    real, calls = preprocessing.build.window_histogram, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) > windows_before:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(preprocessing.build, "window_histogram", interrupted)
    assert run(data, cache) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert not read_manifest(cache).complete
    finished = [f"r{i}.h5" for i in range(windows_before // 4)]
    assert sorted(path.name for path in (cache / "train").iterdir()) == finished
    monkeypatch.setattr(preprocessing.build, "window_histogram", real)
    assert run(data, cache) == 0
    assert contents(cache) == contents(tmp_path / "undisturbed")


@pytest.mark.slow
def test_killed_and_started_again_gives_the_same_cache(tree, tmp_path):
    data, cache = tree(train=1, n_events=200_000), tmp_path / "cache"
    for i in range(1, 40):
        for suffix in ("td.dat", "bbox.npy"):
            os.link(data / "train" / f"r0_{suffix}", data / "train" / f"r{i}_{suffix}")
    command = [sys.executable, "-m", "preprocessing", "--input", data, "--output", cache, *SIZE]
    process = subprocess.Popen([*command, "--workers", "2"], stderr=subprocess.PIPE)
    while len(list(cache.rglob("*.h5"))) < 3:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.communicate(timeout=10)  # the workers hold stderr open: they end with their parent
    assert not read_manifest(cache).complete
    finished = {path: path.stat().st_mtime_ns for path in (cache / "train").glob("r*.h5")}
    assert len(finished) < 40
    (cache / "train" / ".r7.h5.1.tmp").write_bytes(b"left by a killed run")
    assert run(data, cache) == 0
    assert run(data, tmp_path / "undisturbed") == 0
    assert contents(cache) == contents(tmp_path / "undisturbed")
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in finished.items())


def test_a_recording_without_boxes_is_an_empty_file(tree, tmp_path):
    data = tree(train=1)
    write_boxes(data / "train" / "r0_bbox.npy", np.zeros(0, BOX))
    assert run(data, tmp_path / "cache") == 0
    with open_cache(tmp_path / "cache" / "train" / "r0.h5") as file:
        assert file["frames"].shape == (0, 4, 2, 240, 304)


def test_out_of_frame_events_are_counted_and_reported(tree, tmp_path, capsys):
    data = tree(train=1)
    path = data / "train" / "r0_td.dat"
    events = DatReader(path).read()
    events["x"][events["t"] >= 700_000] = WIDTH + 7
    write_dat(path, events, HEIGHT, 400)
    path.write_bytes(path.read_bytes().replace(b"% Width 400\n", b"% Width 304\n", 1))
    assert run(data, tmp_path / "cache") == 0
    outside = ((events["t"] >= 700_000) & (events["t"] < 849_999)).sum()
    assert f"{outside} events out of frame, ignored" in capsys.readouterr().out
    with open_cache(tmp_path / "cache" / "train" / "r0.h5") as file:
        assert read_header(file).report.tally.out_of_frame == outside


def test_unsorted_times_are_repaired_and_reported(tree, tmp_path, capsys):
    data = tree(train=1)
    path = data / "train" / "r0_td.dat"
    events = DatReader(path).read()
    late = np.arange(1000, 19_000, 3000)
    events["t"][late] -= 900
    write_dat(path, events, HEIGHT, WIDTH)
    assert run(data, tmp_path / "cache") == 0
    assert (
        f"{len(late)} events came after later ones, put in their place" in capsys.readouterr().out
    )
    reader = DatReader(path)
    with open_cache(tmp_path / "cache" / "train" / "r0.h5") as file:
        expected = event_histogram(reader.window(100_000, 400_000), 99_999, 250_000, 4, 240, 304)
        np.testing.assert_array_equal(file["frames"][1], expected)


def test_a_truncated_last_record_is_dropped_and_reported(tree, tmp_path, capsys):
    data = tree(train=1)
    path = data / "train" / "r0_td.dat"
    path.write_bytes(path.read_bytes()[:-3])
    assert run(data, tmp_path / "cache") == 0
    assert "1 recording lost a truncated last record" in capsys.readouterr().out


def test_bad_recordings_are_named_and_the_others_finished(tree, tmp_path, capsys):
    data, cache = tree(train=5), tmp_path / "cache"
    train = data / "train"
    (train / "r0_td.dat").write_bytes(b"% Date 2020")  # truncated in its header
    (train / "r1_td.dat").write_bytes(np.random.default_rng(0).bytes(5000))  # no .dat at all
    write_dat(train / "r2_td.dat", DatReader(train / "r3_td.dat").read(), 480, 640)
    (train / "r3_bbox.npy").write_bytes(b"not an array")
    code = run(data, cache)
    refused(capsys, code, "4 of 5 recordings", "r0_td.dat", "r1_td.dat", "r3_bbox.npy")
    assert [path.name for path in (cache / "train").iterdir()] == ["r4.h5"]
    manifest = read_manifest(cache)
    assert list(manifest.recordings["train"]) == ["r4"]
    assert list(manifest.failed) == [f"train/r{i}" for i in range(4)]
    assert manifest.failed["train/r2"].endswith("sensor of 480x640 px, expected 240x304")


def test_unusable_inputs_are_refused(tree, tmp_path, capsys):
    (tmp_path / "empty" / "train").mkdir(parents=True)
    cache = tmp_path / "cache"
    refused(capsys, run(tmp_path / "empty", cache), "empty", "no recordings")
    refused(capsys, run(tmp_path / "absent", cache), "absent", "no such directory")
    data = tree(train=2)
    (data / "train" / "r0_bbox.npy").rename(data / "train" / "lone_bbox.npy")
    refused(capsys, run(data, cache), "lone_bbox.npy", "r0_td.dat")
    assert not cache.exists()


def test_impossible_options_are_refused(tree, tmp_path, capsys):
    data, cache = tree(train=1), tmp_path / "cache"
    refused(capsys, run(data, cache, "--time-steps", "0"), "0 time steps")
    refused(capsys, run(data, cache, "--workers", "-1"), "--workers is -1")
    cache.write_text("a file where the directory should be")
    refused(capsys, run(data, cache), "cache")
    for option, value in (("--time-steps", "four"), ("--downsample", "3"), ("--keep", "all")):
        with pytest.raises(SystemExit, match="2"):
            run(data, tmp_path / "other", option, value)
        assert f"Got value: {value}" in capsys.readouterr().err


def test_a_foreign_manifest_is_refused(tree, tmp_path, capsys):
    data, cache = tree(train=1), tmp_path / "cache"
    cache.mkdir()
    for text in ("not json", '{"name": "another tool"}', "[]"):
        (cache / "manifest.json").write_text(text)
        refused(capsys, run(data, cache), "manifest.json", "cannot be understood")


def test_a_dying_worker_ends_in_one_sentence(tree, tmp_path, monkeypatch, capsys):
    data = tree(train=2)
    monkeypatch.setattr(preprocessing.build, "window_histogram", lambda *_: os._exit(9))
    code = run(data, tmp_path / "cache", "--workers", "2")
    refused(capsys, code, "a worker process died", "run the same command again")
    assert not read_manifest(tmp_path / "cache").complete


def test_attributes_say_what_shaped_the_bytes(tree, tmp_path):
    data = tree(train=1)
    run(data, tmp_path / "cache")
    with h5py.File(tmp_path / "cache" / "train" / "r0.h5") as file:
        assert set(file.attrs) == {"schema", "settings", "source", "report"}
        header = read_header(file)
    recording, labels = header.sources
    status = (data / "train" / "r0_td.dat").stat()
    assert (recording.size_bytes, recording.mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert (recording.name, labels.name) == ("r0_td.dat", "r0_bbox.npy")
    assert len(recording.content_sha256) == 64
