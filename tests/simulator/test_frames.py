"""Frames beside events: the same streets, boxes and times, for the other half of the house."""

import numpy as np

from gen1.labels import read_boxes
from images.coco import read_coco, read_picture
from simulator.__main__ import main
from simulator.canvas import LOG_UNIT
from simulator.frames import as_picture


def test_pictures_carry_the_labels_of_the_recordings(tmp_path, capsys):
    words = [str(tmp_path), "--train", "1", "--val", "1", "--test", "0", "--seconds", "0.5"]
    assert main([*words, "--workers", "1"]) == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.suffix in (".dat", ".npy")}
    assert main([*words, "--workers", "1", "--frames"]) == 0
    assert {p: p.read_bytes() for p in before} == before  # made again, byte for byte
    for split in ("train", "val"):
        images = read_coco(tmp_path / f"frames/{split}.json", tmp_path / "frames" / split)
        assert images.categories == ("car", "pedestrian")
        assert len(images.pictures) == 2
        boxes = read_boxes(tmp_path / split / "synthetic_0000_bbox.npy")
        for picture, t_us in zip(images.pictures, (249_999, 499_999), strict=True):
            mine = boxes[boxes["t"] == t_us]
            assert picture.path.name == f"synthetic_0000_{t_us:012d}.png"
            assert picture.classes.tolist() == mine["class_id"].tolist()
            pixels = read_picture(picture.path)
            assert pixels.shape == (240, 304, 3)
            assert pixels.std() > 10
    capsys.readouterr()
    assert main([*words, "--workers", "1", "--frames"]) == 0
    assert "0 recordings made, 2 kept from before" in capsys.readouterr().out


def test_light_is_brighter_where_its_logarithm_is_higher():
    levels = np.array([[-2.0, 0.0, 1.0, 9.0]]) * LOG_UNIT
    dark, asphalt, bright, white = as_picture(levels)[0].tolist()
    assert dark < asphalt < bright < white == 255
    assert asphalt == round(255 * (1 / 6) ** (1 / 2.2))
