"""Labels of one recording in every layout that people have: all give the same boxes."""

import json
import shutil

import numpy as np
import pytest

from gen1.labels import read_boxes
from gen1.labels.__main__ import main
from gen1.spec import find_spec
from tests.conftest import GOLDEN, golden_json

SAME = GOLDEN / "formats" / "same"
LAYOUTS = golden_json("formats/same/formats.json")
SIDES = [*"xywh"]
needs_same = pytest.mark.skipif(not LAYOUTS, reason="no such figures")


def spec_file(folder, layout):
    """A spec of the layout's own numbers: of its classes, those that the recording has."""
    path = folder / f"{layout}.yaml"
    classes = {name: int(i) for i, name in LAYOUTS[layout]["classes"].items()}
    path.write_text(json.dumps({"height": 240, "width": 304, "classes": classes}))
    return path


def in_order(boxes):
    return boxes[np.lexsort([boxes["y"], boxes["x"], boxes["t"]])]


def check(boxes, spec, layout, tolerance_px):
    """The same boxes as those of Gen1, by names of classes."""
    expected = np.load(SAME / "expected.npz")
    truth, names = expected["boxes"], expected["class_names"].tolist()
    if LAYOUTS[layout].get("only_pedestrians"):
        truth = truth[expected["pedestrian"]]
    truth, boxes = in_order(truth), in_order(spec.classify(boxes, layout))
    assert (boxes["t"] - LAYOUTS[layout]["subtract_us"]).tolist() == truth["t"].tolist()
    for side in SIDES:
        np.testing.assert_allclose(boxes[side], truth[side], atol=tolerance_px)
    ours = [spec.classes[k].replace("person", "pedestrian") for k in boxes["class_id"]]
    assert ours == [names[k] for k in truth["class_id"]]
    if LAYOUTS[layout]["track_ids"]:
        assert boxes["track_id"].tolist() == truth["track_id"].tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_golden_labels_are_the_same_in_every_layout(layout, tmp_path):
    path = spec_file(tmp_path, layout)
    spec, given, options = find_spec(path), LAYOUTS[layout]["boxes"], []
    sources = [SAME / source for source in given.split(" or ")]
    if layout == "dsec":
        sources = [SAME / LAYOUTS[layout]["events"] / given]
    if layout == "pedro":
        sensor = {"height": 260, "width": 346, "classes": {"person": 0}}
        path.write_text(json.dumps(sensor))
        options = ["--recordings", str(SAME / LAYOUTS[layout]["events"])]
    for number, source in enumerate(sources):
        if source.name.endswith("_bbox.npy"):
            check(read_boxes(source), spec, layout, 0)
            continue
        output = tmp_path / f"{number}"
        output.mkdir()
        target = output / "rec_bbox.npy" if source.suffix == ".npy" else output
        words = ["convert", str(source), str(target), "--dataset", str(path), *options]
        assert main(words) == 0
        boxes = np.concatenate([read_boxes(found) for found in sorted(output.glob("*.npy"))])
        check(boxes, spec, layout, LAYOUTS[layout].get("yolo_max_error_px", 5e-4))


@pytest.fixture
def refused(tmp_path, capsys):
    def run(source, *options):
        words = ["convert", str(source), str(tmp_path / "out"), *options]
        assert main(words) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert len(error.strip().splitlines()) == 1
        assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True
        return error

    return run


def coco_of(tmp_path, **changes):
    content = json.loads((SAME / "coco/rec.json").read_text()) | changes
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    return path


@needs_same
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"categories": [{"id": 7, "name": "car"}, {"id": 3, "name": "tram"}]},
            "class 'tram', exp",
        ),
        ({"images": []}, "cannot be understood (KeyError"),
        ({"annotations": []}, "holds no boxes, expected labels"),
        ({"images": [{"id": i, "file_name": "a.png"} for i in range(200)]}, "a.png: nothing tells"),
    ],
)
def test_coco_that_cannot_be_used_is_one_sentence(tmp_path, refused, changes, sentence):
    assert sentence in refused(coco_of(tmp_path, **changes))


@needs_same
@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("0 0.5 0.5 0.1 0.1 0.9", "has a confidence, expected labels, not detections"),
        ("0 0.5 0.5 0.1", "expected class cx cy w h"),
        ("car 0.5 0.5 0.1 0.1", "expected class cx cy w h"),
        ("9 0.5 0.5 0.1 0.1", "expected a class of data.yaml"),
        ("0 nan 0.5 0.1 0.1", "expected finite sides"),
        ("0 0.5 0.5 -0.1 0.1", "expected finite sides of 0 or more"),
    ],
)
def test_yolo_that_cannot_be_used_is_one_sentence(tmp_path, refused, line, sentence):
    folder = shutil.copytree(SAME / "yolo", tmp_path / "yolo") / "labels"
    next(folder.glob("*.txt")).write_text(f"{line}\n")
    assert sentence in refused(folder)


@needs_same
def test_pictures_find_their_place_in_a_csv(tmp_path, refused):
    table = tmp_path / "times.csv"
    voc = SAME / LAYOUTS["pedro"]["boxes"].split(" or ")[0]
    rows = [f"{path.stem}.jpg,ride,{1000 * k}" for k, path in enumerate(sorted(voc.glob("*.xml")))]
    table.write_text("\n".join(["picture,recording,t_us", *rows]))
    words = ["--times", str(table), "--dataset", "pedro"]
    assert main(["convert", str(voc), str(tmp_path / "out"), *words]) == 0
    boxes = read_boxes(tmp_path / "out" / "ride_bbox.npy")
    assert set(boxes["t"].tolist()) <= {1000 * k for k in range(len(rows))}
    shutil.rmtree(tmp_path / "out")
    table.write_text("\n".join(["picture,recording,t_us", *rows[1:]]))
    assert "nothing tells its time, expected it in --times" in refused(voc, *words)
    table.write_text("picture,t_us\na,later\n")
    assert "times.csv: line 2: " in refused(voc, *words)


@pytest.mark.parametrize("source", ["none.json", "empty", "notes.doc"])
def test_what_is_no_set_of_labels_is_one_sentence(tmp_path, refused, source):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.doc").touch()
    assert source in refused(tmp_path / source)


def test_real_samples_of_pedro_are_read(shared_data, tmp_path):
    folder = shared_data("pedro")
    options = ["--recordings", str(folder / "numpy/val"), "--dataset", "pedro"]
    assert main(["convert", str(folder / "xml/val"), str(tmp_path / "out"), *options]) == 0
    assert len(list((tmp_path / "out").glob("*_bbox.npy"))) == 3
