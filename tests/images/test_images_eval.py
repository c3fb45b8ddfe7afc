"""Pictures and their labels are read, scored and reported; what cannot be is one sentence."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from images.batches import ToScore
from images.coco import read_coco, read_picture
from images.eval import main
from images.evaluate import detect
from images.score import score
from models import build_model
from models.checkpoint import save_checkpoint
from models.decode import DetectConfig


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = build_model("spikeyolo-p", variant="coco", num_classes=2)
    save_checkpoint(tmp_path / "coco.pt", model.config, model.state_dict(), {})
    return tmp_path / "coco.pt"


def words(pictures, checkpoint, tmp_path, *options):
    folder, path = pictures
    given = ["--images", folder, "--annotations", path, "--checkpoint", checkpoint]
    return [*map(str, given), "--output", str(tmp_path / "out"), "--side", "128", *options]


def changed(pictures, change):
    folder, path = pictures
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder, path


def test_an_evaluation_leaves_figures_detections_and_a_report(
    pictures, checkpoint, tmp_path, capsys
):
    assert main(words(pictures, checkpoint, tmp_path, "--detect.score-threshold", "1e-4")) == 0
    out = capsys.readouterr().out
    assert "instances: 4 pictures, 8 boxes" in out
    assert "AP@50 red" in out
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert len(metrics["protocols"]["coco"]["stats"]) == 12
    assert metrics["energy"]["ann_mj"] > 0
    assert {
        row["category_id"] for row in json.loads((tmp_path / "out/detections.json").read_text())
    } <= {3, 7}
    page = (tmp_path / "out/report/report.html").read_text()
    assert "pycocotools: IoU 0.50 to 0.95" in page


@pytest.mark.parametrize("square", [False, True])
def test_perfect_boxes_score_one_whatever_the_canvas(pictures, square):
    images = read_coco(pictures[1], pictures[0])
    batches, found = ToScore(images, 128, 3, square), {}
    for batch in batches:
        assert batch.pictures.shape[2] % 32 == batch.pictures.shape[3] % 32 == 0
        for k, (number, placing) in enumerate(zip(batch.numbers, batch.placings, strict=True)):
            rows = batch.targets[batch.targets[:, 0] == k].numpy().astype(np.float64)
            xyxy = placing.boxes_out(rows[:, 2:])
            found[number] = np.column_stack([xyxy, np.ones(len(rows)), rows[:, 1]])
    assert score(images, found).stats[0] == pytest.approx(1)
    x = ToScore(images, 128, 3, square, time_steps=4)[0].network_input()
    assert x.shape[0] == 4
    assert x.untyped_storage().nbytes() == 4 * x[0].numel()  # stored once


class ColourFinder(torch.nn.Module):
    """A detector that sees red and green: one box a picture and colour, to the px."""

    def forward(self, x):
        return [x[0]]

    def decode(self, maps):
        (pictures,) = maps
        boxes = torch.zeros(len(pictures), 2, 4)
        for k, picture in enumerate(pictures):
            red, green, _ = picture
            for c, strength in enumerate((red - green, green - red)):
                rows, columns = torch.nonzero(strength > 0.35, as_tuple=True)
                ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                boxes[k, c] = torch.stack(ends).float()
        return boxes, torch.eye(2).expand(len(pictures), 2, 2) * 0.9


def test_rectangular_and_square_batches_give_the_same_figures(pictures):
    images, figures = read_coco(pictures[1], pictures[0]), []
    for square in (False, True):
        batches = ToScore(images, 128, 3, square)
        found = detect(ColourFinder(), batches, DetectConfig(), torch.device("cpu"))
        figures.append(score(images, found).stats)
    assert figures[0][1] == pytest.approx(1)
    np.testing.assert_allclose(figures[0], figures[1], rtol=0, atol=1e-9)


def test_ids_are_those_of_the_categories(pictures):
    images = read_coco(pictures[1], pictures[0])
    assert images.categories == ("red", "green")
    assert images.category_ids == (3, 7)
    assert images.pictures[0].classes.tolist() == [0, 1]


def test_a_bad_box_is_dropped_and_counted_never_its_picture(pictures):
    def change(content):
        rows = content["annotations"]
        rows[0]["bbox"] = [-50.0, -50.0, 20.0, 20.0]
        rows[1]["bbox"][2] = 0.0
        rows[2]["bbox"][0] = float("nan")
        rows[3]["iscrowd"] = 1

    images = read_coco(*changed(pictures, change)[::-1])
    assert images.left_out == {
        "outside of their picture": 1,
        "without area": 1,
        "that are not finite": 1,
    }
    assert len(images.pictures) == 4
    assert images.pictures[1].crowd.tolist() == [True]
    assert "left out: 1 boxes outside" in images.in_words()


def no_images(content):
    content["images"], content["annotations"] = [], []


def other_category(content):
    content["annotations"][0]["category_id"] = 99


def other_image(content):
    content["annotations"][0]["image_id"] = 99


def missing(content):
    content["images"][2]["file_name"] = "gone.png"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (no_images, "names no pictures, expected one at least"),
        (other_category, "annotation 0 is of category 99, expected one of [3, 7]"),
        (other_image, "annotation 0 is of image 99, expected one of `images`"),
        (missing, "lacks 1 of 4 pictures of "),
        (lambda content: content.pop("categories"), "cannot be understood ('categories')"),
        (lambda content: content["categories"].pop(), "expected one of [7]"),
    ],
)
def test_annotations_that_cannot_be_used_are_one_sentence(
    pictures, checkpoint, tmp_path, capsys, change, sentence
):
    assert main(words(changed(pictures, change), checkpoint, tmp_path)) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1


def test_a_network_of_events_or_of_other_classes_is_refused(pictures, tmp_path, capsys):
    for settings, meta, sentence in (
        ({"variant": "gen1"}, {"histogram": {}}, "reads event histograms, expected a network of"),
        ({"variant": "coco"}, {}, "has 80 classes, expected 2, as instances"),
    ):
        model = build_model("spikeyolo-p", **settings)
        save_checkpoint(tmp_path / "x.pt", model.config, model.state_dict(), meta)
        assert main(words(pictures, tmp_path / "x.pt", tmp_path)) == 1
        assert sentence in capsys.readouterr().err
    (tmp_path / "y.pt").write_bytes(b"none")
    assert main(words(pictures, tmp_path / "y.pt", tmp_path)) == 1
    assert "not a readable checkpoint" in capsys.readouterr().err
    assert main(words(pictures, tmp_path / "gone.pt", tmp_path)) == 1
    assert "gone.pt: no such checkpoint" in capsys.readouterr().err


def test_pictures_of_every_mode_become_rgb(tmp_path):
    rng = np.random.default_rng(1)
    grey = rng.integers(0, 256, (20, 30)).astype(np.uint8)
    for mode in ("L", "RGBA", "CMYK", "P"):
        path = tmp_path / f"{mode}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.fromarray(grey).convert("RGB" if mode == "RGBA" else mode).convert(mode).save(path)
        assert read_picture(path).shape == (20, 30, 3)
    Image.fromarray(grey.astype(np.uint16) * 256).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "deep.png")[..., 0], grey)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(grey).save(tmp_path / "turned.jpg", exif=turned)
    assert read_picture(tmp_path / "turned.jpg").shape == (30, 20, 3)


def test_an_unreadable_picture_is_named(pictures, checkpoint, tmp_path, capsys):
    (pictures[0] / "p1.png").write_bytes(b"")
    assert main(words(pictures, checkpoint, tmp_path)) == 1
    assert "p1.png: is no readable picture" in capsys.readouterr().err
    Image.new("RGB", (5, 5)).save(pictures[0] / "p1.png")
    assert main(words(pictures, checkpoint, tmp_path)) == 1
    assert (
        "p1.png: is of 5x5 px, expected 120x90, as the annotations say" in capsys.readouterr().err
    )
