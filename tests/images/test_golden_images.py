"""Letterbox, resize, mosaic, warp, colour, mixture and boxes beside the authors' own."""

from functools import cache

import cv2
import numpy as np
import pytest

from images.augment import (
    Sample,
    Warp,
    flipped,
    mixed,
    mosaic,
    moved_boxes,
    recoloured,
    warped,
    worth_keeping,
)
from images.batches import placed
from images.geometry import Placing, batch_shapes, clipped, load_size, resized
from tests.conftest import GOLDEN, golden_json
from tests.images.rule import corners, labels, picture


@cache
def figures(name):
    return np.load(GOLDEN / "coco" / f"{name}.npz", allow_pickle=False)


def cases(name):
    return golden_json(f"coco/{name}.npz")


def sample(tag, height, width, count):
    classes, fractions = labels(tag, count)
    return Sample(picture(tag, height, width), classes, corners(fractions, height, width))


LETTERBOX = cases("letterbox")


@pytest.mark.parametrize("case", LETTERBOX)
def test_golden_letterboxes(case):
    meta = LETTERBOX[case]
    source = meta["h"], meta["w"]
    options = {"enlarge": meta.get("scaleup", True), "least": meta.get("auto", False)}
    placing = Placing.letterbox(source, tuple(meta["new"]), **options)
    assert [*placing.canvas] == meta["out"]
    assert [placing.corner[1], placing.corner[0]] == meta["pad_left_top"]
    given = sample(f"letterbox:{case}", *source, 6)
    np.testing.assert_array_equal(
        placing.paint(given.picture), figures("letterbox")[f"{case}|image"]
    )
    moved = placing.boxes_in(given.boxes)
    theirs = figures("letterbox")[f"{case}|boxes_xyxy"]
    odd = [(side - length) % 2 for side, length in zip(placing.canvas, placing.scaled, strict=True)]
    # they move boxes by half a px more where the spare is odd, and use one factor for both axes
    slack = (
        1e-3
        + 0.5 * max(odd)
        + abs(np.array(placing.scaled) / source - meta["ratio"]).max() * max(source)
    )
    np.testing.assert_allclose(moved, theirs, atol=slack)
    np.testing.assert_allclose(placing.boxes_out(moved), clipped(given.boxes, source), atol=1e-9)


LOAD = cases("load_resize")


@pytest.mark.parametrize("case", LOAD)
def test_golden_pictures_are_loaded_at_the_same_size(case):
    meta = LOAD[case]
    size = load_size((meta["h"], meta["w"]), meta["imgsz"])
    assert [*size] == meta["out"]
    found = resized(picture(f"load:{case}", meta["h"], meta["w"]), size)
    np.testing.assert_array_equal(found, figures("load_resize")[f"{case}|image"])


MOSAIC = cases("mosaic")


@pytest.mark.parametrize("case", MOSAIC)
def test_golden_mosaics(case):
    meta = MOSAIC[case]
    tiles = [
        sample(f"mosaic:{case}:{k}", *shape, meta["n_per_image"])
        for k, shape in enumerate(meta["shapes"])
    ]
    found = mosaic(tiles, meta["imgsz"], (meta["centre_y"], meta["centre_x"]))
    np.testing.assert_array_equal(found.picture, figures("mosaic")[f"{case}|image"])
    np.testing.assert_allclose(found.boxes, figures("mosaic")[f"{case}|boxes_xyxy"], atol=1e-3)
    assert found.classes.tolist() == figures("mosaic")[f"{case}|cls"].tolist()


WARPS = cases("perspective")
NAMES = {"angle_deg": "angle", "shear_x_deg": "shear_x", "shear_y_deg": "shear_y"}
NAMES |= {"translate_x_frac": "translate_x", "translate_y_frac": "translate_y"}


@pytest.mark.parametrize("case", WARPS)
def test_golden_warps(case):
    meta = WARPS[case]
    warp = Warp(**{NAMES.get(name, name): value for name, value in meta["draws"].items()})
    given = sample(f"perspective:{case}", meta["h"], meta["w"], 12)
    target = tuple(meta["out_hw"])
    matrix = warp.matrix((meta["h"], meta["w"]), target)
    theirs = figures("perspective")
    np.testing.assert_allclose(matrix, theirs[f"{case}|M"], atol=1e-4)
    everything = clipped(moved_boxes(given.boxes, matrix), target)
    np.testing.assert_allclose(everything, theirs[f"{case}|boxes_all"], atol=1e-3)
    kept = worth_keeping(given.boxes * warp.scale, everything, meta["area_thr"])
    assert kept.tolist() == theirs[f"{case}|keep"].tolist()
    found = warped(given, warp, target, meta["area_thr"])
    np.testing.assert_allclose(found.boxes, theirs[f"{case}|boxes"], atol=1e-3)
    assert found.classes.tolist() == theirs[f"{case}|cls"].tolist()
    difference = np.abs(found.picture.astype(int) - theirs[f"{case}|image"])
    assert difference.mean() <= 0.2
    assert difference.max() <= 3


COLOURS = {k: meta for k, meta in cases("hsv").items() if isinstance(meta, dict)}


@pytest.mark.parametrize("case", COLOURS)
def test_golden_colours(case):
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(1, -1, 3)
    as_hsv = cv2.cvtColor(lattice, cv2.COLOR_RGB2HSV)[0]
    np.testing.assert_array_equal(as_hsv, figures("hsv")["lattice_hsv"])
    gains, theirs = COLOURS[case]["factors"], figures("hsv")
    found = recoloured(lattice, gains)[0].astype(int)
    difference = np.abs(found - theirs[f"{case}|rgb"])
    assert difference.max() <= 1
    assert (difference == 0).mean() >= 0.998
    found = recoloured(picture(f"hsv:{case}", 40, 56), gains).astype(int)
    assert np.abs(found - theirs[f"{case}|image"]).max() <= 1


def fractions_of(boxes, height, width):
    x1, y1, x2, y2 = boxes.T
    sides = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
    return np.stack(sides, 1)


MIXED, VAL = cases("mixup_flip"), cases("val_chain")


@pytest.mark.parametrize("case", [case for case in MIXED if case.startswith("mixup")])
def test_golden_mixtures(case):
    k = case.removeprefix("mixup")
    pair = [sample(f"mixup:{k}:{number}", 48, 64, 4) for number in (0, 1)]
    found, theirs = mixed(*pair, MIXED[case]["r"]), figures("mixup_flip")
    np.testing.assert_array_equal(found.picture, theirs[f"{case}|image"])
    expected = theirs[f"{case}|boxes_xywhn"]
    np.testing.assert_allclose(fractions_of(found.boxes, 48, 64), expected, atol=1e-6)
    assert found.classes.tolist() == theirs[f"{case}|cls"].tolist()


@pytest.mark.skipif(not MIXED, reason="no such figures")
def test_golden_a_mirror():
    found, theirs = flipped(sample("flip", 40, 56, 5)), figures("mixup_flip")
    np.testing.assert_array_equal(found.picture, theirs["flip_horizontal|image"])
    expected = theirs["flip_horizontal|boxes_xywhn"]
    np.testing.assert_allclose(fractions_of(found.boxes, 40, 56), expected, atol=1e-6)


@pytest.mark.skipif("rect640" not in VAL, reason="no such figures")
def test_golden_pictures_of_like_shape_share_a_canvas():
    meta = VAL["rect640"]
    order, shapes = batch_shapes(np.array(meta["hw"]), meta["batch"], 640)
    assert shapes.tolist() == meta["batch_shapes"]
    ratios = np.array([h / w for h, w in meta["hw"]])
    assert ratios[order].tolist() == ratios[meta["order"]].tolist()  # of equals theirs has no order


CHAIN = cases("train_chain")


def loaded(number, side):
    """A picture of the folder as training loads it."""
    height, width = CHAIN["shapes"][number]
    classes, fractions = labels(f"folder:{number}", CHAIN["counts"][number])
    size = load_size((height, width), side)
    pixels = resized(picture(f"folder:{number}", height, width), size)
    return Sample(pixels, classes, corners(fractions, *size))


def replayed(sample_meta, side, is_mosaic):
    """One training sample from the authors' own draws."""
    draws = [value for _, _, value in sample_meta["draws"]]
    if is_mosaic:
        _, partners, row, column = draws[:4]
        tiles = [loaded(k, side) for k in (sample_meta["index"], *partners)]
        given = mosaic(tiles, side, (int(row), int(column)))
    else:
        given = loaded(sample_meta["index"], side)
        placing = Placing.letterbox(given.picture.shape[:2], (side, side))
        boxes = placing.boxes_in(given.boxes)
        given = Sample(placing.paint(given.picture), given.classes, boxes)
    drawn = draws[4 if is_mosaic else 1 :]
    names = ("perspective_x", "perspective_y", "angle", "scale")
    names += ("shear_x", "shear_y", "translate_x", "translate_y")
    found = warped(given, Warp(**dict(zip(names, drawn, strict=False))), (side, side))
    gains = 1 + np.array(drawn[9]) * (0.015, 0.7, 0.4)
    found = Sample(recoloured(found.picture, gains.tolist()), found.classes, found.boxes)
    return flipped(found) if drawn[11] < 0.5 else found


@pytest.mark.parametrize("chain", [name for name in ("mosaic", "closed") if name in CHAIN])
def test_golden_training_samples(chain):
    theirs, side = figures("train_chain"), CHAIN["imgsz"]
    for k, meta in enumerate(CHAIN[chain]["samples"]):
        found = replayed(meta, side, chain == "mosaic")
        mine = theirs[f"{chain}|batch_idx"] == k
        assert found.classes.tolist() == theirs[f"{chain}|cls"][mine].tolist()
        expected = theirs[f"{chain}|bboxes_xywhn"][mine]
        np.testing.assert_allclose(fractions_of(found.boxes, side, side), expected, atol=1e-5)
        image = found.picture.transpose(2, 0, 1).astype(int)
        away = np.abs(image - theirs[f"{chain}|img"][k])
        assert away.mean() <= 0.25
        assert (away <= 3).mean() >= 0.99


@pytest.mark.skipif(not VAL, reason="no such figures")
def test_golden_batches_to_score():
    theirs = figures("val_chain")
    sizes = np.array(VAL["shapes"])
    order, shapes = batch_shapes(sizes, VAL["batch"], VAL["imgsz"])
    assert shapes.tolist() == VAL["batch_shapes"]
    assert sorted(order.tolist()) == sorted(VAL["order"])
    for number, canvas in enumerate(VAL["batch_shapes"]):
        for k, index in enumerate(VAL[f"batch{number}"]["images"]):
            height, width = VAL["shapes"][index]
            placing = placed((height, width), VAL["imgsz"], tuple(canvas))
            image = placing.paint(picture(f"folder:{index}", height, width))
            np.testing.assert_array_equal(image.transpose(2, 0, 1), theirs[f"{number}|img"][k])
