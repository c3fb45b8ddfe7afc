"""A frame camera and an event camera in one street: one rule, one table."""

import json

import h5py
import numpy as np
import pytest
import torch

import detect_gen1
import eval_gen1
from gen1.coco import evaluate
from gen1.labels import read_boxes
from gen1.protocol import PROTOCOLS
from gen1.spec import BOX, by_name
from images.coco import read_coco
from images.eval import main as evaluate_pictures
from images.score import scores_of
from models import build_model
from models.checkpoint import save_checkpoint
from preprocessing.__main__ import main as preprocess
from simulator.__main__ import main as simulate


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    """Recordings, the pictures taken beside them, and a cache, of two streets of 1 s."""
    out = tmp_path_factory.mktemp("streets")
    words = "--train 0 --val 0 --test 2 --seconds 1 --seed 3 --workers 1 --frames"
    assert simulate([str(out), *words.split()]) == 0
    options = ["--output", str(out / "cache"), "--time-steps", "2", "--downsample", "2"]
    assert preprocess(["--input", str(out), *options, "--workers", "1"]) == 0
    return out


def test_the_same_boxes_score_the_same_in_frames_and_in_events(streets):
    images = read_coco(streets / "frames/test.json", streets / "frames/test")
    labels = {
        name: read_boxes(path) for name, path in by_name(streets / "test", "_bbox.npy").items()
    }
    rng, found, pictures = np.random.default_rng(0), {}, {}
    for name, boxes in labels.items():
        guessed = np.concatenate([boxes, boxes]).astype(BOX)
        for side in "xywh":
            guessed[side] += rng.normal(0, 3, len(guessed)).astype(np.float32)
        guessed["class_confidence"] = rng.random(len(guessed))
        found[name] = np.sort(guessed, order="t")
        for picture in [p for p in images.pictures if p.path.name.startswith(name)]:
            t_us = int(picture.path.stem.rpartition("_")[2])
            mine = found[name][found[name]["t"] == t_us]
            x, y, w, h = (mine[side].astype(np.float64) for side in "xywh")
            rows = [x, y, x + w, y + h, mine["class_confidence"], mine["class_id"]]
            pictures[picture.id] = np.stack(rows, 1)
    events = evaluate([*labels.values()], [*found.values()], PROTOCOLS["all-boxes"])
    frames = scores_of(images, pictures)["all-boxes"]
    assert 0.05 < events.map_50_95 < 0.95
    np.testing.assert_allclose(frames.stats, events.stats, rtol=0, atol=1e-12)
    assert frames.n_labels == events.n_labels


def test_frames_and_events_stand_in_one_table_and_other_pictures_do_not(
    streets, pictures, tmp_path, capsys
):
    torch.manual_seed(0)
    frame_network = build_model("spikeyolo-p", variant="coco", num_classes=2)
    save_checkpoint(tmp_path / "f.pt", frame_network.config, frame_network.state_dict(), {})
    event_network = build_model("spikeyolo-p", variant="gen1", time_steps=2)
    with h5py.File(next(streets.glob("cache/test/*.h5")), locking=False) as file:
        histogram = json.loads(file.attrs["settings"])
    meta = {"histogram": histogram, "input": "histogram"}
    save_checkpoint(tmp_path / "e.pt", event_network.config, event_network.state_dict(), meta)

    def of_pictures(folder, annotations, output):
        given = [
            "--checkpoint",
            tmp_path / "f.pt",
            "--images",
            folder,
            "--annotations",
            annotations,
        ]
        words = [*map(str, given), "--output", str(output), "--side", "96", "--pictures", "0"]
        assert evaluate_pictures(words) == 0

    of_pictures(streets / "frames/test", streets / "frames/test.json", tmp_path / "frames")
    of_pictures(*pictures, tmp_path / "others")
    given = ["--checkpoint", tmp_path / "e.pt", "--cache", streets / "cache", "--pictures", "0"]
    assert eval_gen1.main([*map(str, given), "--output", str(tmp_path / "events")]) == 0
    capsys.readouterr()

    both = [str(tmp_path / name) for name in ("frames", "events")]
    assert eval_gen1.main(["--compare", *both, "--output", str(tmp_path / "table")]) == 0
    printed = capsys.readouterr().out
    assert "protocol all-boxes" in printed
    assert printed.count("| spikeyolo-p ilif") == 2
    assert (tmp_path / "table/compare.png").stat().st_size > 10_000
    assert eval_gen1.main(["--compare", both[0], str(tmp_path / "others")]) == 1
    assert "only evaluations of the same recordings" in capsys.readouterr().err


def test_a_network_of_pictures_is_refused_where_recordings_are_read(streets, tmp_path, capsys):
    network = build_model("spikeyolo-p", variant="coco", num_classes=2)
    path = tmp_path / "pictures.pt"
    save_checkpoint(path, network.config, network.state_dict(), {"images": {"side": 96}})
    recording, out = streets / "test/synthetic_0000_td.dat", str(tmp_path / "out")
    given = ["--checkpoint", str(path)]
    for main, words in (
        (eval_gen1.main, [*given, "--cache", str(streets / "cache"), "--output", out]),
        (detect_gen1.main, [str(recording), *given, "--output", out]),
    ):
        assert main(words) == 1
        (line,) = [w for w in capsys.readouterr().err.splitlines() if w.startswith("error")]
        assert line == f"error: {path}: was trained on pictures, expected event histograms"
    assert not (tmp_path / "out").exists()
