"""The authors' input, for comparisons on equal terms: ternary, letterboxed, newest step first."""

import numpy as np
import pytest
import torch

from gen1.dat import write_dat
from gen1.labels import write_boxes
from gen1.spec import BOX, EVENT
from preprocessing.__main__ import main
from preprocessing.dataset import HistogramDataset, collate
from preprocessing.geometry import Geometry, Letterbox


@pytest.fixture(scope="module")
def figures(golden):
    return dict(golden("spikeyolo/gen1_encode.npz"))


@pytest.fixture(scope="module")
def cache(figures, tmp_path_factory):
    root = tmp_path_factory.mktemp("authors")
    events = np.zeros(len(figures["t"]), EVENT)
    for name in "txyp":
        events[name] = figures[name]
    boxes = np.zeros(len(figures["boxes_xywh"]), BOX)
    boxes["t"] = figures["label_ts"]
    for name, column in zip("xywh", figures["boxes_xywh"].T, strict=True):
        boxes[name] = column
    (root / "data" / "train").mkdir(parents=True)
    write_dat(root / "data" / "train" / "a_td.dat", events, 240, 304)
    write_boxes(root / "data" / "train" / "a_bbox.npy", boxes)
    options = ["--time-steps", "2", "--representation", "last-polarity"]
    arguments = ["--input", str(root / "data"), "--output", str(root / "cache"), *options]
    assert main(arguments) == 0
    return root / "cache"


def test_the_whole_input_equals_the_authors_to_the_last_bit(figures, cache):
    dataset = HistogramDataset(cache, "train", Letterbox(), input="authors")
    batch = collate([dataset[0]])
    expected = figures["net_input_T2_uint8"]
    for channel in range(3):
        np.testing.assert_array_equal(batch.frames[:, 0, channel], expected)
    assert torch.equal(batch.network_input(), batch.frames.float() / 255)


def test_ternary_keeps_our_geometry_and_order(cache):
    frames = HistogramDataset(cache, "train", Geometry(), input="ternary")[0].frames
    assert frames.shape == (2, 3, 256, 320)
    assert set(frames.unique().tolist()) == {0, 127, 255}
    assert (frames[..., 240:, :] == 127).all()


def test_boxes_go_to_the_letterbox_and_back():
    letterbox = Letterbox()
    xyxy = np.array([[0, 0, 304, 240], [10, 20, 70, 90]], np.float64)
    moved = letterbox.boxes_to_network(xyxy)
    np.testing.assert_allclose(moved[0], [0, 33, 320, 286])
    np.testing.assert_allclose(letterbox.boxes_to_sensor(moved), xyxy, atol=1e-12)
    as_tensor = letterbox.boxes_to_network(torch.from_numpy(xyxy))
    np.testing.assert_allclose(as_tensor, moved)


def test_targets_follow_the_letterbox(figures, cache):
    dataset = HistogramDataset(cache, "train", Letterbox(), input="authors")
    x, y, w, h = figures["boxes_xywh"][0]
    _, x1, y1, x2, y2 = dataset[0].targets[0].tolist()
    expected = [x * 320 / 304, y * 253 / 240 + 33, (x + w) * 320 / 304, (y + h) * 253 / 240 + 33]
    np.testing.assert_allclose([x1, y1, x2, y2], expected, rtol=1e-6)


def test_an_unknown_input_and_a_count_cache_are_refused(cache, street_cache):
    with pytest.raises(ValueError, match="input is 'rgb', expected one of histogram, ternary"):
        HistogramDataset(cache, "train", Letterbox(), input="rgb")
    with pytest.raises(ValueError, match="representation count, expected last-polarity"):
        HistogramDataset(street_cache, "train", Geometry(downsample=2), input="authors")
