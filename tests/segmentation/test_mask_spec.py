"""Classes of masks: presets, files, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from preprocessing.geometry import Geometry
from segmentation.masks import at_sensor, downsampled, padded_rows, read_mask
from segmentation.spec import (
    IGNORED,
    MASKS,
    MaskSpec,
    find_mask_spec,
    mask_spec_from,
    read_mask_spec,
    spans,
    voc_colours,
    write_mask_spec,
)
from simulator.masks import COLOURS, write_classes
from simulator.masks import IGNORED as SIMULATED_IGNORED
from simulator.spec import CLASSES

SIZES = {"simulator": 6, "dsec-11": 11, "dsec-19": 19, "ddd17": 6, "ade20k": 150}
SIZES |= {"cityscapes": 19, "voc": 21}


@pytest.mark.parametrize("name", MASKS)
def test_presets_go_to_a_file_and_back(tmp_path, name):
    spec = MASKS[name]
    assert len(spec.classes) == SIZES[name]
    assert len({*spec.colours}) == len(spec.classes)
    write_mask_spec(tmp_path / "masks.yaml", spec)
    assert read_mask_spec(tmp_path / "masks.yaml") == spec
    assert find_mask_spec(tmp_path) == find_mask_spec(name) == spec


def test_the_simulator_writes_what_the_preset_says(tmp_path):
    write_classes(tmp_path, CLASSES)
    spec, preset = find_mask_spec(tmp_path), MASKS["simulator"]
    assert (spec.classes, spec.colours) == (preset.classes, preset.colours)
    assert spec.ignored == SIMULATED_IGNORED == IGNORED
    assert {*spec.classes} <= {*COLOURS}


@pytest.mark.parametrize(
    ("name", "numbers", "classes"),
    [
        ("ade20k", [0, 1, 13, 150], [IGNORED, 0, 12, 149]),
        ("cityscapes", [0, 7, 26, 29, 33, 255], [IGNORED, 0, 13, IGNORED, 18, IGNORED]),
        ("voc", [0, 15, 255], [0, 15, IGNORED]),
        ("dsec-11", [0, 10, 255], [0, 10, IGNORED]),
        ("ddd17", [0, 5, 255], [0, 5, IGNORED]),
    ],
)
def test_numbers_in_files_become_classes(name, numbers, classes):
    found = MASKS[name].classify(np.array(numbers, np.uint8), "a.png")
    assert found.dtype == np.uint8
    assert found.tolist() == classes


def test_names_of_the_presets():
    assert MASKS["ade20k"].classes[12] == "person"
    assert MASKS["cityscapes"].classes[13] == MASKS["dsec-19"].classes[13] == "car"
    assert MASKS["dsec-11"].classes[8] == "car"
    assert MASKS["voc"].classes[15] == "person"


def test_colours_of_voc():
    published = ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128))
    assert voc_colours(6) == published
    assert voc_colours(21)[20] == (0, 64, 128)
    assert MASKS["voc"].palette()[IGNORED].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("ade20k", 151, "a.png: 50.0% of its pixels are 151, expected the 150 classes 1-150 of "),
        ("voc", 21, "one number too many: do its masks count from 1, with 0 for ignored, as ADE20"),
        ("voc", 40, "a.png: 50.0% of its pixels are 40, expected the 21 classes 0-20 of voc or 25"),
        ("cityscapes", 99, "are 99, expected the 19 classes 7-8, 11-13, 17, 19-28, 31-33 of city"),
    ],
)
def test_numbers_that_mean_nothing(name, number, message):
    with pytest.raises(ValueError, match=message) as error:
        MASKS[name].classify(np.array([number, MASKS[name].numbers[0]], np.uint8), "a.png")
    assert ("one number too many" in str(error.value)) == (number == 21)


def test_masks_of_ade20k_need_no_ignored_pixel():
    assert MASKS["ade20k"].classify(np.array([1, 2], np.uint8), "a").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "m.yaml: holds list, expected name, classes"),
        ({"classes": "car"}, "m.yaml: classes is 'car', expected a list of names"),
        ({"classes": ["a", "b"], "colors": []}, "unknown 'colors', expected some of name"),
        ({"classes": ["a"]}, "has 1 classes, expected two at least"),
        ({"classes": ["a", False]}, "names that are no text, expected words, in quotes"),
        ({"classes": ["a", " "]}, "names that are no text"),
        ({"classes": ["a", "a"]}, "names 'a' twice, expected each once"),
        ({"classes": ["a", "b"], "numbers": [1]}, "has 1 numbers for 2 classes"),
        ({"classes": ["a", "b"], "numbers": [1, 255]}, "names '255' twice"),
        ({"classes": ["a", "b"], "numbers": [1, 300]}, "whole numbers from 0 to 255"),
        ({"classes": ["a", "b"], "ignored": "x"}, "whole numbers from 0 to 255"),
        ({"classes": ["a", "b"], "colours": [[0, 0, 0]]}, "has 1 colours for 2 classes"),
        ({"classes": ["a", "b"], "colours": [[0, 0], [1, 1]]}, "expected three numbers"),
        ({"classes": ["a", "b"], "colours": 7}, "m.yaml: cannot be understood"),
        ({"classes": [str(k) for k in range(256)]}, "255 at most in masks of 8 bits"),
    ],
)
def test_what_is_no_spec(content, message):
    with pytest.raises(ValueError, match=message):
        mask_spec_from(content, "m.yaml")


def test_files_that_name_no_classes(tmp_path):
    with pytest.raises(ValueError, match="no such file or classes of masks, expected simulator"):
        find_mask_spec("cityscape")
    (tmp_path / "masks.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"masks.yaml: is no readable YAML"):
        find_mask_spec(tmp_path)


def test_palettes_hold_numbers(tmp_path):
    picture = Image.fromarray(np.array([[0, 15], [20, 255]], np.uint8))
    picture.putpalette(MASKS["voc"].palette().reshape(-1).tolist())
    picture.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", MASKS["voc"]).tolist() == [[0, 15], [20, IGNORED]]


def test_cells_take_the_mask_at_their_centre():
    mask = np.arange(48, dtype=np.uint8).reshape(6, 8)
    assert np.array_equal(downsampled(mask, 1), mask)
    assert downsampled(mask, 2).tolist() == mask[1::2, 1::2].tolist()
    assert padded_rows(mask, 7)[6].tolist() == [IGNORED] * 8


def test_what_a_network_says_goes_back_to_the_sensor():
    geometry = Geometry(6, 8, 2)
    cells = np.arange(12, dtype=np.uint8).reshape(3, 4)
    sensor = at_sensor(geometry.fit(cells)[None], geometry)
    assert sensor.shape == (1, 6, 8)
    assert np.array_equal(downsampled(sensor[0], 2), cells)
    assert sensor[0, :2, :2].tolist() == [[0, 0], [0, 0]]


def test_whole_numbers_in_words():
    assert spans([3, 1, 2, 9]) == "1-3, 9"


def test_more_ignored_numbers_than_one():
    spec = MaskSpec("own", ("a", "b"), numbers=(4, 2), ignored_numbers=(0, 9))
    found = spec.classify(np.array([4, 2, 0, 9, 255], np.uint8), "a.png")
    assert found.tolist() == [0, 1, IGNORED, IGNORED, IGNORED]
