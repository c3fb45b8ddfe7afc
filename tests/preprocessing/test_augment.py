"""Augmentation moves events and boxes together and can be drawn again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.augment import AugmentConfig, augment, drop_events, move_boxes, move_frames

STILL = AugmentConfig(flip=0, zoom_min=1, zoom_max=1, shift=0)
BOX_XYXY = np.array([[60.0, 30.0, 100.0, 70.0]], np.float32)


def frames_with_a_box() -> np.ndarray:
    """[2, 2, 120, 152]: ON events of different counts inside BOX_XYXY only."""
    frames = np.zeros((2, 2, 120, 152), np.uint8)
    frames[:, 1, 30:70, 60:100] = np.arange(1, 41)
    return frames


def extent(frames: np.ndarray) -> list[int]:
    """x1, y1, x2, y2 of all events."""
    rows, columns = np.nonzero(frames.any(axis=(0, 1)))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_doing_nothing_changes_nothing():
    frames = frames_with_a_box()
    moved, boxes, kept = augment(frames, BOX_XYXY, STILL, np.random.default_rng(0))
    np.testing.assert_array_equal(moved, frames)
    np.testing.assert_array_equal(boxes, BOX_XYXY)
    assert kept.tolist() == [True]


@given(
    flip=st.booleans(),
    zoom=st.floats(0.5, 2.0),
    offset_x=st.floats(-40, 40),
    offset_y=st.floats(-20, 20),
)
@settings(max_examples=100, deadline=None)
def test_boxes_follow_the_events_within_a_pixel(flip, zoom, offset_x, offset_y):
    frames = frames_with_a_box()
    boxes = move_boxes(BOX_XYXY, 152, flip, zoom, offset_x, offset_y)
    moved = move_frames(frames, flip, zoom, offset_x, offset_y)
    expected = np.clip(boxes[0], 0, [152, 120, 152, 120])
    if (expected[2:] - expected[:2]).min() >= 2:
        np.testing.assert_allclose(extent(moved), expected, atol=1)
    assert not moved[:, 0].any()  # polarity stays
    assert set(np.unique(moved)) <= set(np.unique(frames))  # counts are copied, not blended


def test_flip_is_exact_and_its_own_inverse():
    frames = frames_with_a_box()
    flipped = move_frames(frames, True, 1.0, 0, 0)
    np.testing.assert_array_equal(flipped, frames[..., ::-1])
    np.testing.assert_array_equal(move_boxes(BOX_XYXY, 152, True, 1.0, 0, 0), [[52, 30, 92, 70]])


def test_boxes_are_clipped_and_dropped_when_little_is_left():
    corners = [[-30, 0, 10, 40], [-10, 0, 30, 40], [0, 0, 1, 40], [200, 0, 240, 40]]
    _, boxes, kept = augment(
        frames_with_a_box(), np.array(corners, np.float32), STILL, np.random.default_rng(0)
    )
    assert kept.tolist() == [True, True, False, False]  # a quarter left, 3/4, 1 px wide, outside
    assert boxes[:2].tolist() == [[0, 0, 10, 40], [0, 0, 30, 40]]
    none = np.zeros((0, 4), np.float32)
    _, boxes, kept = augment(frames_with_a_box(), none, AugmentConfig(), np.random.default_rng(0))
    assert boxes.shape == (0, 4)
    assert kept.shape == (0,)


def test_event_drop_removes_the_share_and_only_that():
    frames = frames_with_a_box()
    before, state = frames.copy(), np.random.get_state()[1].copy()  # noqa: NPY002
    thinned = drop_events(frames, 0.25, np.random.default_rng(3))
    again = drop_events(frames, 0.25, np.random.default_rng(3))
    assert (thinned <= frames).all()
    assert thinned.sum() == frames.sum() - round(0.25 * frames.sum())
    np.testing.assert_array_equal(thinned, again)
    assert (thinned != drop_events(frames, 0.25, np.random.default_rng(4))).any()
    np.testing.assert_array_equal(frames, before)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_drawn_values_stay_in_their_ranges():
    config = AugmentConfig(flip=0.5, zoom_min=0.8, zoom_max=1.25, shift=0.1)
    sides, centres = [], []
    for seed in range(200):
        _, boxes, _ = augment(
            frames_with_a_box(), BOX_XYXY, config, np.random.default_rng([seed, 0, 0])
        )
        sides.append((boxes[0, 2] - boxes[0, 0]) / 40)
        centres.append(boxes[0, [0, 2]].mean() / 152)
    assert 0.8 <= min(sides) < 0.85
    assert 1.2 < max(sides) <= 1.25
    assert np.ptp(centres) > 0.15


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"flip": 1.5}, "flip is 1.5, expected 0 to 1"),
        ({"zoom_min": 2.0}, "zoom_min 2.0 and zoom_max 1.25 were given"),
        ({"min_side": -1}, "min_side is -1 px, expected 0 or more"),
    ],
)
def test_impossible_configs_are_refused(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        AugmentConfig(**wrong)
