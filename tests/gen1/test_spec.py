"""Data sets: the presets, own ones from YAML, and what their label files' numbers mean."""

import numpy as np
import pytest
import yaml

from gen1.protocol import PROTOCOLS, protocols_of
from gen1.spec import BOX, DATASETS, GEN1, DatasetSpec, find_spec, spec_from


def boxes_of(*ids):
    boxes = np.zeros(len(ids), BOX)
    boxes["class_id"], boxes["t"] = ids, np.arange(len(ids))
    return boxes


@pytest.fixture
def mine(tmp_path):
    def write(**settings):
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"height": 260, "width": 346, **settings}))
        return path

    return write


def test_presets_are_what_was_published():
    assert find_spec("gen1") == GEN1 == spec_from(GEN1.as_dict(), "a cache")
    assert (GEN1.sensor_hw, GEN1.classes) == ((240, 304), ("car", "pedestrian"))
    scored, whole = find_spec("1mpx"), find_spec("1mpx-all")
    assert scored.sensor_hw == whole.sensor_hw == (720, 1280)
    assert scored.classes == ("pedestrian", "two-wheeler", "car") == whole.classes[:3]
    rules = protocols_of(scored)
    assert (rules["prophesee"].min_diagonal_px, rules["prophesee"].min_side_px) == (60, 20)
    assert rules["rvt"].crop_labels_hw == (719, 1279)
    assert protocols_of(GEN1) == PROTOCOLS


def test_ids_of_label_files_become_places_of_classes(mine):
    path = mine(classes={"person": 7, "vehicle": [3, 4]}, ignored_ids=[9])
    spec = find_spec(path)
    assert (spec.name, spec.classes, spec.sensor_hw) == ("mine", ("person", "vehicle"), (260, 346))
    boxes = boxes_of(4, 9, 7, 3)
    found = spec.classify(boxes, "a.npy")
    assert found["class_id"].tolist() == [1, 0, 1]
    assert found["t"].tolist() == [0, 2, 3]
    assert boxes["class_id"].tolist() == [4, 9, 7, 3]
    assert len(spec.classify(boxes[:0], "a.npy")) == 0
    with pytest.raises(ValueError, match=r"a.npy: row 1: class_id is 5, expected 7 \(person\) or"):
        spec.classify(boxes_of(3, 5), "a.npy")


def test_the_scored_classes_of_1_mpx_leave_out_the_others():
    assert DATASETS["1mpx"].classify(boxes_of(*range(7)), "")["class_id"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="class_id is 7"):
        DATASETS["1mpx"].classify(boxes_of(7), "")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"classes": []}, "data set mine: has no classes, expected one name"),
        ({"classes": {}}, "has no classes"),
        ({}, "mine.yaml: says no classes, expected height, width and classes"),
        ({"classes": ["car", "car"]}, "names 'car' twice"),
        ({"classes": {"car": 0, "bus": 0}}, "names '0' twice"),
        ({"classes": {"car": 0}, "ignored_ids": [0]}, "names '0' twice"),
        ({"classes": ["car"], "label_ids": [0, 1]}, "label_ids for 2 of 1 class"),
        ({"classes": "car"}, "classes is 'car', expected a list of names"),
        ({"classes": ["car"], "colour": 1}, "unknown 'colour', expected some of name, height"),
        ({"classes": ["car"], "height": 0}, "a sensor of 0x346 px"),
        ({"classes": ["car"], "height": "tall"}, "mine.yaml: height is 'tall', expected"),
        ({"classes": {"car": "x"}}, "mine.yaml: label_ids is .*, expected"),
        ({"classes": ["car"], "protocol": "coco"}, "protocol is 'coco', expected prophesee"),
    ],
)
def test_an_impossible_data_set_is_one_sentence(mine, settings, sentence):
    with pytest.raises(ValueError, match=sentence) as error:
        find_spec(mine(**settings))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", [b"- 1", b"\xff\xfe\x00", b"a: [", b"", b"!!python/object:os.x {}"]
)
def test_what_is_no_spec_is_one_sentence(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=r"odd\.yaml: ") as error:
        find_spec(path)
    assert "\n" not in str(error.value)


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(
        ValueError, match="dataset is 'gen2', expected gen1, 1mpx, 1mpx-all, dsec, pedro, etram or"
    ):
        find_spec("gen2")


def test_data_sets_differ_by_what_shapes_samples_and_scores():
    other = DatasetSpec("gen1", 240, 304, ("car", "bus"), protocol="rvt")
    assert GEN1.unlike(GEN1) == ""
    assert other.unlike(GEN1).startswith("classes car, bus, expected car, pedestrian; min_diagonal")
