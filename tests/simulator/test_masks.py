"""Masks beside recordings: which pixel is of which class, and no event changed."""

import zlib

import numpy as np
import pytest
import yaml
from PIL import Image

from gen1.labels import read_boxes
from gen1.masks import mask_files, mask_times_us
from simulator.__main__ import main
from simulator.cast import ENTRANCES
from simulator.masks import COLOURS, IGNORED, class_map
from simulator.portable import Draws
from simulator.recordings import Settings, simulate
from simulator.render import Renderer
from simulator.scene import HAZE_TO_M, Ego
from simulator.spec import CLASSES, HEIGHT, STUFF, WIDTH

STILL = Ego(0.0, 105.0, (), ())
SIX = ("car", "pedestrian", "truck", "bus", "two-wheeler", "cyclist")
BACKGROUND, ROAD, BUILDING, VEGETATION, CAR, PEDESTRIAN = range(6)


def seen(actors, t=1.0):
    """The mask of a street with these actors."""
    renderer = Renderer(Draws(4), STILL, actors)
    next(renderer.render(np.array([t])))
    return class_map(renderer, actors, t), renderer


def standing(name, z):
    actor = ENTRANCES[name][1](Draws(2), STILL, 0.0)
    actor.class_id = CLASSES.index(name)
    actor.x, actor.z, actor.vx, actor.vz, actor.dies = 0.0, z, 0.0, 0.0, float("inf")
    return actor


def test_masks_come_beside_recordings_that_stay_as_they_are(tmp_path, capsys):
    words = [str(tmp_path), "--train", "1", "--val", "0", "--test", "0", "--seconds", "0.5"]
    assert main([*words, "--workers", "1"]) == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert main([*words, "--workers", "1", "--masks"]) == 0
    assert {p: p.read_bytes() for p in before} == before
    folder = tmp_path / "train" / "synthetic_0000_masks"
    assert mask_times_us(folder).tolist() == [249_999, 499_999]
    for path in mask_files(folder).values():
        with Image.open(path) as picture:
            assert (picture.mode, picture.size) == ("L", (WIDTH, HEIGHT))
    described = yaml.safe_load((tmp_path / "masks.yaml").read_text())
    assert described["classes"] == [*STUFF, *CLASSES]
    assert described["colours"] == [list(COLOURS[name]) for name in described["classes"]]
    assert (described["name"], described["ignored"]) == ("synthetic", IGNORED)
    capsys.readouterr()
    assert main([*words, "--workers", "1", "--masks"]) == 0
    assert "0 recordings made, 1 kept from before" in capsys.readouterr().out


def test_a_seed_gives_these_classes_on_every_machine():
    masks = []
    simulate(Settings(0.25, 3, classes=SIX), "val", 1, masks=masks)
    assert zlib.crc32(masks[0].tobytes()) == 0x7EDDFB21


def test_a_labelled_object_fills_its_box_with_its_class(tmp_path):
    words = [str(tmp_path), "--train", "1", "--val", "0", "--test", "0", "--seconds", "0.5"]
    assert main([*words, "--workers", "1", "--masks"]) == 0
    boxes = read_boxes(tmp_path / "train" / "synthetic_0000_bbox.npy")
    files = mask_files(tmp_path / "train" / "synthetic_0000_masks")
    assert len(boxes)
    for box in boxes:
        mask = np.asarray(Image.open(files[int(box["t"])]))
        low = np.maximum((box["y"], box["x"]), 0).astype(int)
        high = np.array([box["y"] + box["h"], box["x"] + box["w"]]).astype(int)
        inside = mask[low[0] : high[0], low[1] : high[1]]
        assert (inside == len(STUFF) + box["class_id"]).mean() > 0.15


def test_an_empty_street_is_sky_houses_hedge_and_road_below_the_horizon():
    mask, _ = seen([])
    horizon = int(STILL.horizon)
    assert (mask[horizon:] == ROAD).all()
    assert not (mask[:horizon] == ROAD).any()
    assert (mask[horizon - 2] == VEGETATION).all()  # the hedge
    assert set(np.unique(mask)) == {BACKGROUND, ROAD, BUILDING, VEGETATION}


@pytest.mark.parametrize(("name", "number"), [("car", CAR), ("pedestrian", PEDESTRIAN)])
def test_who_stands_there_covers_what_is_behind(name, number):
    empty, _ = seen([])
    mask, renderer = seen([standing(name, 8.0)])
    assert (mask[renderer.owner == 0] == number).all()
    assert (mask == number).sum() > 100
    assert np.array_equal(mask[renderer.owner < 0], empty[renderer.owner < 0])


def test_what_fades_in_the_haze_is_ignored():
    near, _ = seen([standing("car", 20.0)])
    far, renderer = seen([standing("car", HAZE_TO_M - 3.0)])
    assert IGNORED not in near
    assert (far == IGNORED).sum() == (renderer.owner == 0).sum() > 0
    assert CAR not in far


def test_the_stuff_moves_with_the_picture():
    """Turning the camera by whole pixels moves backdrop and classes alike."""
    turned = Ego(0.0, 105.0, ((20.0, 0.0, 0.25),), ())
    pictures = []
    for ego in (STILL, turned):
        renderer = Renderer(Draws(4), ego, [])
        next(renderer.render(np.zeros(1)))
        above = slice(0, 100)
        pictures.append((renderer.frame[above].copy(), renderer.backdrop(0.0)[above]))
    (frame, stuff), (moved_frame, moved_stuff) = pictures
    assert np.array_equal(frame[:, :-20], moved_frame[:, 20:])
    assert np.array_equal(stuff[:, :-20], moved_stuff[:, 20:])
    assert len(np.unique(stuff)) > 1


def test_other_classes_of_streets_follow_the_stuff(tmp_path):
    names = ["truck", "cyclist", "bus"]
    counts = ["--train=1", "--val=0", "--test=0", "--seconds=0.25", "--workers=1", "--masks"]
    assert main([str(tmp_path), *counts, "--classes", *names]) == 0
    described = yaml.safe_load((tmp_path / "masks.yaml").read_text())
    assert described["classes"] == [*STUFF, *names]
    boxes = read_boxes(tmp_path / "train" / "synthetic_0000_bbox.npy")
    (path,) = mask_files(tmp_path / "train" / "synthetic_0000_masks").values()
    found = set(np.unique(np.asarray(Image.open(path))).tolist())
    assert {len(STUFF) + i for i in boxes["class_id"].tolist()} <= found
