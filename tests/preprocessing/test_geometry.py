"""Padding keeps every pixel; boxes go to network pixels and back exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.geometry import Geometry


@pytest.mark.parametrize(
    ("geometry", "frame_hw", "network_hw"),
    [
        (Geometry(), (240, 304), (256, 320)),
        (Geometry(downsample=2), (120, 152), (128, 160)),
        (Geometry(720, 1280, downsample=2), (360, 640), (384, 640)),
    ],
)
def test_padding_keeps_every_pixel_where_it_was(geometry, frame_hw, network_hw):
    assert (geometry.frame_hw, geometry.network_hw) == (frame_hw, network_hw)
    frames = np.random.default_rng(0).integers(0, 256, (2, 2, *frame_hw)).astype(np.uint8)
    padded = geometry.fit(frames)
    assert padded.shape == (2, 2, *network_hw)
    assert padded.dtype == np.uint8
    np.testing.assert_array_equal(padded[..., : frame_hw[0], : frame_hw[1]], frames)
    assert padded.sum() == frames.sum()


@settings(deadline=None)
@given(
    st.lists(st.floats(-500, 2000, width=32), min_size=4, max_size=4), st.sampled_from([1, 2, 4])
)
def test_boxes_return_to_the_sensor_bit_by_bit(corners, downsample):
    geometry = Geometry(240, 304, downsample)
    boxes = np.array([corners], np.float32)
    for xyxy in (boxes, torch.from_numpy(boxes)):
        back = geometry.boxes_to_sensor(geometry.boxes_to_network(xyxy))
        assert back.dtype == xyxy.dtype
        np.testing.assert_allclose(back, xyxy, rtol=0, atol=1e-44)  # smallest float32 may halve


def test_a_box_stays_on_its_pixels():
    frame = np.zeros((240, 304), np.uint8)
    frame[40:60, 100:140] = 1
    geometry = Geometry(downsample=2)
    x1, y1, x2, y2 = geometry.boxes_to_network(np.array([100, 40, 140, 60])).astype(int)
    padded = geometry.fit(frame[::2, ::2])
    assert padded[y1:y2, x1:x2].all()
    assert padded.sum() == (y2 - y1) * (x2 - x1)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="a sensor of 241x304 px was given, expected multiples"):
        Geometry(height=241, downsample=2)
    with pytest.raises(ValueError, match="expected sides and factors of 1 or more"):
        Geometry(downsample=0)
    with pytest.raises(ValueError, match=r"frames of \(120, 152\) px, expected \(240, 304\)"):
        Geometry().fit(np.zeros((120, 152), np.uint8))
