"""A data set of one's own, through every command; nothing knows Gen1's classes or size by heart."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml

import detect_gen1
import eval_gen1
import train_gen1
from gen1.dat import write_dat
from gen1.labels import read_boxes, write_boxes
from gen1.recordings import main as look_over
from gen1.spec import BOX, EVENT
from models.checkpoint import load_checkpoint
from preprocessing.__main__ import main as preprocess
from preprocessing.cache import read_manifest
from preprocessing.dataset import HistogramDataset
from preprocessing.geometry import Geometry

HEIGHT, WIDTH, ROOT = 96, 160, Path(__file__).parents[1]
CLASSES = ["person", "car", "bus", "tram", "dog"]


def write_recording(folder, name, rng, ids, height=HEIGHT, width=WIDTH):
    """A second of noise, and two boxes at two label times."""
    folder.mkdir(parents=True, exist_ok=True)
    events, boxes = np.zeros(8000, EVENT), np.zeros(4, BOX)
    events["t"] = np.sort(rng.integers(0, 1_000_000, len(events)))
    events["x"], events["y"] = rng.integers(width, size=8000), rng.integers(height, size=8000)
    events["p"] = rng.integers(2, size=8000)
    boxes["t"], boxes["class_id"] = [500_000, 500_000, 1_000_000, 1_000_000], rng.choice(ids, 4)
    boxes["x"], boxes["y"] = rng.integers(100, size=4), rng.integers(50, size=4)
    boxes["w"], boxes["h"] = width // 4, height // 3
    write_dat(folder / f"{name}_td.dat", events, height, width)
    write_boxes(folder / f"{name}_bbox.npy", boxes, "1mpx")


@pytest.fixture
def mine(tmp_path):
    """Recordings of five classes, numbered 10 to 50 in their labels, and what describes them."""
    rng, ids = np.random.default_rng(0), [10, 20, 30, 40, 50]
    for split, count in (("train", 3), ("val", 1), ("test", 1)):
        for number in range(count):
            write_recording(tmp_path / "data" / split, f"r{number}", rng, ids)
    classes = dict(zip(CLASSES, ids, strict=True))
    spec = {"height": HEIGHT, "width": WIDTH, "classes": classes}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return tmp_path


@pytest.mark.slow
def test_five_classes_go_from_files_to_report_and_video(mine):
    data, spec, cache, run = (mine / name for name in ("data", "mine.yaml", "cache", "run"))
    assert look_over(["verify", str(data), "--dataset", str(spec)]) == 0
    options = ["--dataset", str(spec), "--time-steps", "2"]
    assert preprocess(["--input", str(data), "--output", str(cache), *options]) == 0
    assert read_manifest(cache).dataset.classes == tuple(CLASSES)

    words = ["--cache", str(cache), "--output", str(run), "--model.name", "spikeyolo-p"]
    words += ["--model.time-steps", "2", "--epochs", "1", "--batch-size", "2", "--workers", "0"]
    assert train_gen1.main([*words, "--optim.name", "adamw", "--optim.lr", "1e-3"]) == 0
    checkpoint = load_checkpoint(run / "best.pt")
    assert checkpoint.config.num_classes == 5
    assert checkpoint.meta["dataset"]["classes"] == CLASSES

    words = ["--checkpoint", str(run), "--cache", str(cache), "--output", str(run / "test")]
    assert eval_gen1.main(words) == 0
    metrics = json.loads((run / "test/metrics.json").read_text())
    assert metrics["protocol"] == "all-boxes"
    assert list(metrics["per_class"]) == CLASSES
    page = (run / "test/report/report.html").read_text()
    assert all(f"AP@50 {name}" in page for name in CLASSES)

    recording, found = data / "test/r0_td.dat", run / "found"
    words = [str(recording), "--checkpoint", str(run), "--output", str(found)]
    words += [
        "--video",
        str(run / "r0.mp4"),
        "--jsonl",
        str(run / "r0.jsonl"),
        "--score",
        "1e-4",
        "--every-ms",
        "250",
    ]
    assert detect_gen1.main(words) == 0
    lines = [json.loads(line) for line in (run / "r0.jsonl").read_text().splitlines()]
    assert {box["class"] for line in lines for box in line["boxes"]} <= {*CLASSES}
    assert sum(len(line["boxes"]) for line in lines) > 0
    assert (run / "r0.mp4").stat().st_size > 10_000
    assert read_boxes(found / "r0_bbox.npy")["class_id"].max() < 5


@pytest.mark.slow
def test_1_mpx_trains_and_scores_by_its_own_rules(tmp_path):
    data, cache, run = (tmp_path / name for name in ("data", "cache", "run"))
    rng = np.random.default_rng(1)
    for split in ("train", "val", "test"):
        write_recording(data / split, "r0", rng, range(7), 720, 1280)
    options = ["--dataset", "1mpx", "--time-steps", "2", "--downsample", "4"]
    assert preprocess(["--input", str(data), "--output", str(cache), *options]) == 0
    words = ["--cache", str(cache), "--output", str(run), "--model.name", "spikeyolo-p"]
    words += ["--model.time-steps", "2", "--epochs", "1", "--batch-size", "2", "--workers", "0"]
    assert train_gen1.main([*words, "--optim.name", "adamw", "--protocol", "all-boxes"]) == 0
    words = ["--checkpoint", str(run), "--cache", str(cache), "--output", str(run / "test")]
    assert eval_gen1.main(words) == 0
    metrics = json.loads((run / "test/metrics.json").read_text())
    assert list(metrics["per_class"]) == ["pedestrian", "two-wheeler", "car"]
    assert metrics["protocol"] == "prophesee"
    rule = metrics["protocols"]["prophesee"]["rule"]
    assert (rule["min_diagonal_px"], rule["min_side_px"]) == (60, 20)


def test_classes_can_be_read_off_the_labels(mine, capsys):
    words = ["--input", str(mine / "data"), "--output", str(mine / "cache"), "--dataset", "labels"]
    assert preprocess(words) == 0
    assert "read off the labels: 96x160 px, class 10, class 20" in capsys.readouterr().out
    spec = read_manifest(mine / "cache").dataset
    assert spec.classes == tuple(f"class {i}" for i in (10, 20, 30, 40, 50))
    for path in (mine / "data").rglob("*_bbox.npy"):
        path.unlink()
    assert preprocess([*words, "--every-ms", "100"]) == 1
    assert "no labels beside it or the others, expected a data set" in capsys.readouterr().err


def test_a_cache_file_of_other_classes_is_found(mine, capsys):
    cache, spec = mine / "cache", mine / "mine.yaml"
    words = ["--input", str(mine / "data"), "--output", str(cache), "--dataset", str(spec)]
    assert preprocess(words) == 0
    with h5py.File(cache / "train/r1.h5", "r+", locking=False) as file:
        del file.attrs["dataset"]  # as a file of Gen1
    assert preprocess(["verify", str(cache)]) == 1
    assert "train/r1.h5: stale: " in capsys.readouterr().out
    with pytest.raises(
        ValueError, match=r"r1\.h5: .*classes car, pedestrian, expected person, car"
    ):
        HistogramDataset(cache, "train", Geometry(HEIGHT, WIDTH))


def test_other_classes_than_the_checkpoints_are_refused(mine, capsys):
    (mine / "data/train/r0_bbox.npy").unlink()
    code = preprocess(["--input", str(mine / "data"), "--output", str(mine / "cache")])
    assert code == 1
    assert "1 file without labels (r0_td.dat)" in capsys.readouterr().err
    options = ["--input", str(mine / "data/test"), "--output"]
    assert preprocess([*options, str(mine / "a")]) == 1
    assert "sensor of 96x160 px, expected 240x304" in capsys.readouterr().err
    assert preprocess([*options, str(mine / "b"), "--height", "96", "--width", "160"]) == 1
    error = capsys.readouterr().err
    assert "r0_bbox.npy: row 0: class_id is" in error
    assert "expected 0 (car) or 1 (pedestrian)" in error


def test_no_module_knows_classes_or_sizes_by_heart():
    """They are the data set's, which a cache and a checkpoint carry with them."""
    rooms = ("gen1", "preprocessing", "models", "training", "evaluation", "streaming", "benchmarks")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")] + [*ROOT.glob("*.py")]
    forbidden = re.compile(
        r"import .*\b(CLASSES|HEIGHT|WIDTH)\b|\b(240, 304|304, 240)\b|\"pedestrian\""
    )
    found = [
        f"{path.relative_to(ROOT)}: {line}"
        for path in files
        if path != ROOT / "gen1/spec.py"
        for line in path.read_text().splitlines()
        if forbidden.search(line)
    ]
    assert not found
