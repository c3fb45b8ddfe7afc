"""The detection script: from a recording to boxes, lines and a video."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from imageio_ffmpeg import count_frames_and_secs
from PIL import Image, ImageColor

import streaming.settings
from detect_gen1 import main
from evaluation.pictures import LABEL_COLOUR
from gen1.dat import DatReader, write_dat
from gen1.labels import read_boxes, write_boxes
from gen1.spec import EVENT
from models import build_model
from models.checkpoint import load_model, save_checkpoint
from preprocessing.histogram import HistogramSettings

SCORE = "0.002"  # what an untrained network finds


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = build_model("spikeyolo-p", variant="gen1", time_steps=2)
    histogram = asdict(HistogramSettings(time_steps=2, downsample=4))
    path = tmp_path_factory.mktemp("run") / "best.pt"
    meta = {"name": "spikeyolo-p", "histogram": histogram, "input": "histogram"}
    save_checkpoint(path, model.config, model.state_dict(), meta)
    return path


@pytest.fixture(scope="module")
def street(street_cache):
    """Directory with two recordings of a second, from 0.25 to 1.25 s, and their labels."""
    return street_cache.parent / "recordings" / "test"


@pytest.fixture(scope="module")
def recording(street):
    return street / "r0_td.dat"


@pytest.fixture
def detect(checkpoint, tmp_path, capsys):
    """detect(recording, options) -> exit code, stdout and stderr; boxes go to tmp_path/boxes."""

    def call(recording, *options, run=checkpoint):
        paths = ["--checkpoint", str(run), "--output", str(tmp_path / "boxes")]
        defaults = ["--every-ms", "250", "--score", SCORE, "--energy-windows", "0"]
        code = main([str(recording), *paths, *defaults, *map(str, options)])
        return code, *capsys.readouterr()

    return call


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_recording_becomes_boxes_lines_and_a_video(detect, recording, tmp_path):
    video, lines = tmp_path / "deep" / "a.mp4", tmp_path / "a.jsonl"
    code, out, _ = detect(
        recording,
        "--video",
        video,
        "--jsonl",
        lines,
        "--speed=2",
        "--every-ms=100",
        "--energy-windows=2",
    )
    assert code == 0
    assert "r0: 10 windows, " in out
    for text in ("M events/s", "x real time", "firing rate", "mJ per window", "10 pictures"):
        assert text in out

    boxes, windows = read_boxes(tmp_path / "boxes" / "r0_bbox.npy"), lines_of(lines)
    assert [line["t_us"] for line in windows] == list(range(350_000, 1_250_001, 100_000))
    assert {line["recording"] for line in windows} == {"r0"}
    assert len(boxes) == sum(len(line["boxes"]) for line in windows) > 0
    assert np.all(boxes["class_confidence"] >= float(SCORE))
    first = next(line for line in windows if line["boxes"])
    stored = boxes[boxes["t"] == first["t_us"]][0]
    assert first["boxes"][0]["class"] in ("car", "pedestrian")
    for side in "xywh":
        assert first["boxes"][0][side] == pytest.approx(stored[side], abs=0.01)
    assert first["n_events"] == len(DatReader(recording).window(100_000, 350_000))
    assert 0 < first["firing_rate"] < 1

    frames, seconds = count_frames_and_secs(str(video))
    assert (frames, seconds) == (10, pytest.approx(0.5, abs=0.05))


def test_a_time_range_finds_what_the_whole_recording_has_there(detect, recording, tmp_path):
    assert detect(recording, "--every-ms=100")[0] == 0
    path = tmp_path / "boxes" / "r0_bbox.npy"
    whole = read_boxes(path)
    assert detect(recording, "--every_ms=100", "--from_s=0.55", "--to_s=0.95")[0] == 0
    part = read_boxes(path)
    assert set(part["t"]) == {650_000, 750_000, 850_000, 950_000} & set(whole["t"])
    inside = (whole["t"] > 550_000) & (whole["t"] <= 950_000)
    np.testing.assert_array_equal(part, whole[inside])


def test_all_recordings_of_a_directory(detect, recording, tmp_path):
    for split in ("train", "test"):
        (tmp_path / "all" / split).mkdir(parents=True)
        (tmp_path / "all" / split / "r0_td.dat").symlink_to(recording)
    clips, lines = tmp_path / "clips", tmp_path / "all.jsonl"
    options = "--video", clips, "--jsonl", lines, "--to-s", "0.8"
    assert detect(tmp_path / "all", *options)[0] == 0
    for folder, ending in ((tmp_path / "boxes", "_bbox.npy"), (clips, ".mp4")):
        found = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
        assert found == {f"train/r0{ending}", f"test/r0{ending}"}
    assert [line["recording"] for line in lines_of(lines)] == 2 * ["train/r0"] + 2 * ["test/r0"]


def test_one_broken_recording_does_not_stop_the_others(detect, recording, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "a_td.dat").write_bytes(b"\x93NUMPY nothing of this kind")
    (folder / "b_td.dat").symlink_to(recording)
    code, out, err = detect(folder, "--to-s", "0.5")
    assert code == 1
    assert "error: a: " in err
    assert "expected a Prophesee .dat recording" in err
    assert "b: 1 windows" in out
    assert [path.name for path in (tmp_path / "boxes").iterdir()] == ["b_bbox.npy"]


def test_labels_are_drawn_dashed_near_their_time(detect, recording, tmp_path):
    gif = tmp_path / "a.gif"
    options = ("--score=1", "--every-ms=100", "--from-s=0.3", "--to-s=0.8")
    assert detect(recording, "--video", gif, *options)[0] == 0
    label = read_boxes(recording.with_name("r0_bbox.npy"))[0]
    assert label["t"] == 499_999
    with Image.open(gif) as image:
        assert image.n_frames == 5
        assert image.info["duration"] == 100
        dark = []
        for number in (1, 2):  # at 500 and 600 ms
            image.seek(number)
            page = np.asarray(image.convert("RGB"))
            row = 26 + 2 * round(label["y"])  # below the line on top, two px to one
            columns = slice(2 * round(label["x"]), 2 * round(label["x"] + label["w"]))
            dark.append((page[row, columns] == ImageColor.getrgb(LABEL_COLOUR)).all(-1).mean())
    assert 0.4 < dark[0] < 0.8
    assert dark[1] == 0


def test_without_labels_nothing_is_dashed(detect, recording, tmp_path):
    alone = tmp_path / "alone_td.dat"
    alone.symlink_to(recording)
    code, _, err = detect(alone, "--video", tmp_path / "a.gif", "--score=1", "--to-s=0.5")
    assert (code, err) == (0, "")
    with Image.open(tmp_path / "a.gif") as image:
        picture = np.asarray(image.convert("RGB"))[26 : 26 + 480]
    assert not (picture == ImageColor.getrgb(LABEL_COLOUR)).all(-1).any()


def test_live_replay_tells_how_far_boxes_lag(detect, recording, tmp_path):
    lines = tmp_path / "a.jsonl"
    code, out, _ = detect(recording, "--live", "--speed", "50", "--jsonl", lines)
    assert code == 0
    for text in ("latency in ms: p50", "p99", "windows, ", "dropped", "too late"):
        assert text in out
    assert "x real time" not in out  # it would be the pace asked for, or that of an interrupted run
    assert 1 <= len(lines_of(lines)) <= 4
    assert (tmp_path / "boxes" / "r0_bbox.npy").exists()


def written(path, events, height=240, width=304):
    write_dat(path, events, height, width)
    return path


@pytest.fixture(scope="module")
def events(recording):
    return DatReader(recording).read()


def test_a_recording_shorter_than_a_window(detect, events, tmp_path):
    short = written(tmp_path / "s_td.dat", events[events["t"] <= 450_000])
    code, out, err = detect(short, "--every-ms=100")
    assert code == 0
    assert err == (
        "note: s: is shorter than a window of 0.25 s, what was before it counts as empty\n"
    )
    assert "s: 1 windows" in out  # to 0.35 s


def test_a_smaller_sensor_is_padded_and_a_larger_one_pooled_or_refused(detect, events, tmp_path):
    small = events[(events["x"] < 152) & (events["y"] < 120)]
    code, _, err = detect(written(tmp_path / "s_td.dat", small, 120, 152), "--to-s", "0.6")
    assert code == 0
    assert "note: s: its sensor has 120x152 px, that of the training 240x304" in err
    code, _, err = detect(written(tmp_path / "l_td.dat", events, 720, 1280))
    assert code == 1
    assert err.startswith("error: ")
    assert "a sensor of 720x1280 px was given to a model trained on 240x304" in err


def test_a_sensor_without_a_size_is_taken_from_the_options(detect, events, tmp_path):
    path = written(tmp_path / "n_td.dat", events)
    header, _, records = path.read_bytes().partition(b"% Width 304\n")
    path.write_bytes(header.replace(b"% Height 240\n", b"") + records)
    assert "note: n: names no sensor size, 240x304 px are taken" in detect(path, "--to-s", "0.5")[2]
    code, _, err = detect(path, "--to-s", "0.5", "--height", "288", "--width", "352")
    assert code == 0
    assert "names no sensor size, 288x352 px are taken" in err


def test_a_torn_record_and_disorder_are_told(detect, events, tmp_path):
    events = events.copy()
    events["t"][[500, 900]] -= 2000
    path = written(tmp_path / "d_td.dat", events)
    path.write_bytes(path.read_bytes() + b"torn")
    code, out, err = detect(path)
    assert code == 0
    assert "note: d: ends inside a record, the last 4 bytes are dropped" in err
    assert "note: d: 2 events came after later ones, they are put in their place" in err
    assert "d: 4 windows" in out


def test_a_corrupt_tail_that_jumps_in_time_is_refused_at_once_and_can_be_left_out(
    detect, events, tmp_path
):
    jump = np.array(20 * [(3_000_000_000, 1, 1, 1)], EVENT)
    path = written(tmp_path / "j_td.dat", np.concatenate([events, jump]))
    code, _, err = detect(path)
    assert code == 1
    assert "error: j: holds no events from 300.25 to 600.25 s, expected a range of time" in err
    assert "j: 4 windows" in detect(path, "--to-s", "1.25")[1]


def refusal(detect, *arguments, **options):
    code, _, err = detect(*arguments, **options)
    assert code == 1
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    return err


def test_what_is_no_recording_is_refused(detect, tmp_path):
    assert "no such file, expected a recording" in refusal(detect, tmp_path / "x_td.dat")
    (tmp_path / "empty").mkdir()
    assert "holds no recordings" in refusal(detect, tmp_path / "empty")
    empty = written(tmp_path / "e_td.dat", np.empty(0, EVENT))
    assert "holds no events" in refusal(detect, empty)


def test_what_is_no_checkpoint_of_ours_is_refused(detect, recording, tmp_path, monkeypatch):
    assert "no such checkpoint" in refusal(detect, recording, run=tmp_path / "x.pt")
    foreign = tmp_path / "y.pt"
    torch.save({"weights": torch.zeros(3)}, foreign)
    assert "found format None" in refusal(detect, recording, run=foreign)
    monkeypatch.setattr(streaming.settings, "SAMPLE_CHECKPOINT", tmp_path / "sample.pt")
    error = refusal(detect, recording, run=tmp_path / "sample.pt")
    assert "the sample checkpoint is not there, expected `--checkpoint`" in error


def test_where_nothing_can_be_written_nothing_is_detected(detect, recording, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("a file")
    assert f"{taken}: cannot be made" in refusal(detect, recording, "--output", taken)
    assert f"{taken}: cannot be made" in refusal(detect, recording, "--video", taken / "a.mp4")
    assert f"{taken}: cannot be made" in refusal(detect, recording, "--jsonl", taken / "a.jsonl")
    for option, folder in (("--video", tmp_path / "d.mp4"), ("--jsonl", tmp_path / "d.jsonl")):
        folder.mkdir()
        assert f"{folder}: is a directory" in refusal(detect, recording, option, folder)
    assert not (tmp_path / "boxes" / "r0_bbox.npy").exists()


def test_labels_are_read_before_anything_is_detected(detect, recording, tmp_path):
    (tmp_path / "a_td.dat").symlink_to(recording)
    (tmp_path / "a_bbox.npy").write_text("no boxes")
    error = refusal(detect, tmp_path / "a_td.dat", "--video", tmp_path / "a.mp4")
    assert "is not a readable .npy file" in error
    assert not (tmp_path / "boxes" / "a_bbox.npy").exists()


@pytest.mark.slow
def test_membranes_may_be_carried(detect, checkpoint, recording, tmp_path):
    model, (config, _, meta, *_) = load_model(checkpoint)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bn.bias"):  # random weights fire nothing by themselves
                parameter += 0.5
    run, found = tmp_path / "fires.pt", []
    save_checkpoint(run, config, model.state_dict(), meta)
    for options in ([], ["--carry-state", "--energy-windows=1"]):
        code, out, _ = detect(recording, *options, run=run)
        assert code == 0
        assert "mJ" not in out
        found.append(read_boxes(tmp_path / "boxes" / "r0_bbox.npy"))
    first, later = ([boxes[boxes["t"] == t] for boxes in found] for t in (500_000, 750_000))
    np.testing.assert_array_equal(*first)
    assert not np.array_equal(*later)
    assert "every 100000 us" in refusal(detect, recording, "--carry-state", "--every-ms=100")


def test_boxes_never_replace_labels(detect, street, recording):
    before = read_boxes(street / "r0_bbox.npy")
    assert "would pass for labels" in refusal(detect, recording, "--output", street)
    np.testing.assert_array_equal(read_boxes(street / "r0_bbox.npy"), before)


def test_detections_are_read_as_boxes_of_any_recording(detect, recording, tmp_path):
    assert detect(recording, "--to-s", "0.5")[0] == 0
    boxes = read_boxes(tmp_path / "boxes" / "r0_bbox.npy")
    write_boxes(tmp_path / "again.npy", boxes)
    np.testing.assert_array_equal(read_boxes(tmp_path / "again.npy"), boxes)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--video", "a.avi"], "has suffix '.avi', expected .mp4 or .gif"),
        (["--every-ms", "0"], "every_ms is 0, expected more than 0"),
        (["--speed", "-1"], "speed is -1, expected more than 0"),
        (["--score", "1.5"], "score is 1.5, expected 0 to 1"),
        (["--from-s", "1", "--to-s", "0.5"], "to_s is 0.5, expected more than from_s, 1"),
        (["--from-s", "7"], "lasts from 0.25 to 1.25 s, expected 250 ms or more"),
        (["--live", "--video", "a.mp4"], "expected live alone"),
        (["--device", "cuda:7"], "torch finds no usable GPU"),
        (["--device", "gpu"], "device is 'gpu', expected auto, cpu or cuda"),
        (["--height", "-5"], "height is -5, expected 1 or more"),
        (["--video", "a.gif", "--speed", "1e-6"], "expected 0.01 or more: a higher speed"),
        (["--video", "a.gif", "--every-ms", "1", "--speed", "0.01"], "a GIF of more than 400"),
    ],
)
def test_wrong_options_are_one_sentence(
    detect, recording, options, sentence, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if "cuda:7" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert sentence in refusal(detect, recording, *options)


def test_a_directory_needs_a_directory_for_videos(detect, street, tmp_path):
    error = refusal(detect, street, "--video", tmp_path / "a.mp4")
    assert "is a directory of recordings, expected a directory for the videos" in error
    assert detect(street, "--video", tmp_path / "clips.v2", "--to-s", "0.5")[0] == 0
    assert (tmp_path / "clips.v2" / "r0.mp4").is_file()


def test_help_shows_examples(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert "\n  detect_gen1.py drive_td.dat --video drive.mp4\n" in shown
    for option in ("--every-ms", "--live", "--jsonl", "recording"):
        assert option in shown
