"""A picture, a folder or a video becomes boxes and pictures with them."""

import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from images.detect import main
from images.published import CURVE, at, in_words
from models import build_model
from models.checkpoint import save_checkpoint
from tests.conftest import GOLDEN


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = build_model("spikeyolo-p", variant="coco", num_classes=2, activation="relu")
    meta = {"images": {"categories": ["red", "green"]}}
    save_checkpoint(tmp_path / "coco.pt", model.config, model.state_dict(), meta)
    return tmp_path / "coco.pt"


def run(source, checkpoint, output, *options):
    words = [str(source), str(checkpoint), str(output), "--side", "128", "--score", "1e-5"]
    return main([*words, *options])


@pytest.mark.parametrize("whole", [True, False])
def test_pictures_become_boxes_and_pictures(pictures, checkpoint, tmp_path, whole):
    source = pictures[0] if whole else pictures[0] / "p1.png"
    assert run(source, checkpoint, tmp_path / "out") == 0
    rows = json.loads((tmp_path / "out/detections.json").read_text())
    assert rows
    assert {row["category"] for row in rows} <= {"red", "green"}
    for row in rows:
        x, y, w, h = row["bbox"]
        with Image.open(pictures[0] / row["image"]) as picture:
            assert -0.01 <= x <= x + w <= picture.width + 0.01
            assert -0.01 <= y <= y + h <= picture.height + 0.01
    assert len(list((tmp_path / "out").glob("*.png"))) == (4 if whole else 1)


def test_a_video_becomes_a_video(checkpoint, tmp_path):
    path = tmp_path / "in.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (96, 64))
    for _ in range(5):
        writer.write(np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8))
    writer.release()
    assert run(path, checkpoint, tmp_path / "out") == 0
    assert (tmp_path / "out/in.mp4").stat().st_size > 500
    assert json.loads((tmp_path / "out/detections.json").read_text())


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("none.png", "no such file"),
        ("empty", "holds no pictures"),
        ("odd.mp4", "no readable video"),
    ],
)
def test_what_is_no_picture_is_one_sentence(checkpoint, tmp_path, capfd, source, sentence):
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.mp4").write_bytes(b"none")
    assert run(tmp_path / source, checkpoint, tmp_path / "out") == 1
    assert sentence in capfd.readouterr().err


@pytest.mark.skipif(not (GOLDEN / "coco/log_23M.npz").is_file(), reason="no such figures")
def test_golden_the_published_curve_is_that_of_the_log():
    log = np.load(GOLDEN / "coco/log_23M.npz")
    names = {name.lower(): name for name in log.files}
    column = next(names[name] for name in names if "map50" in name and "95" not in name)
    for epoch, (map_50, _) in CURVE.items():
        assert map_50 == pytest.approx(float(log[column][epoch - 1]), abs=6e-4)
    assert at(7) == pytest.approx((0.165 + 0.4 * 0.092, 0.096 + 0.4 * 0.067))
    figures = {"val_map_50": 0.2, "val_map_50_95": 0.1}
    assert "published: 0.165 and 0.096 of size s" in in_words(5, figures)
