"""Streets with stops: the clock that stands, what does not move, and for how long."""

import json

import numpy as np
import pytest

from gen1.labels import read_boxes
from gen1.recordings import list_recordings
from gen1.still import read_still, still_path, write_still
from simulator.__main__ import main
from simulator.cast import cast, ego_motion
from simulator.clock import BRAKE_S, Clock
from simulator.figures import pedestrian
from simulator.portable import Draws
from simulator.recordings import Settings, _still_us, plan, simulate
from simulator.scene import Actor, Ego

STOP = Clock(((1.0, 5.0),))


def test_a_clock_brakes_stands_and_goes_on():
    t = np.arange(0.0, 8.0, 0.01)
    moved = STOP(t)
    pace = np.diff(moved) / 0.01
    assert pace.min() >= -1e-9
    assert pace.max() <= 1 + 1e-9
    standing = (t[:-1] >= 1.0 + BRAKE_S) & (t[1:] <= 5.0)
    np.testing.assert_allclose(pace[standing], 0, atol=1e-9)
    assert moved[-1] == pytest.approx(t[-1] - 4.0)
    np.testing.assert_array_equal(Clock()(t), t)


def test_what_waits_while_the_camera_waits_keeps_its_box():
    sway = ((30.0, 0.2, 0.1),)
    ego = Ego(2.0, 105.0, sway, sway, STOP)
    parts = pedestrian(Draws(2))
    walker = Actor(parts, 0, 1, 0.0, 0.0, 9.0, 1.2, -1.0, rate=1.0, drift=-1.0, ego=STOP)
    waits = Actor(parts, 0, 1, 0.0, 0.0, 9.0, 1.2, -1.0, rate=1.0, drift=-1.0, ego=STOP, clock=STOP)
    walks, stands = _still_us(ego, [walker, waits], 4_000_000)
    assert walks < 200_000
    assert 2_000_000 < stands < 2_800_000
    later = _still_us(ego, [waits], 4_500_000)
    assert later[0] == stands + 500_000
    assert _still_us(ego, [waits], 500_000)[0] < 200_000


def test_streets_with_stops_have_much_that_stands_and_much_that_moves():
    stood, seconds = [], 10.0
    for index in range(6):
        draws = Draws(3, index, 1)
        ego = ego_motion(draws, seconds)
        actors = [a for a in cast(draws, ego, seconds) if a.class_id is not None]
        for end_us in range(1_000_000, 10_000_000, 1_000_000):
            present = [a for a in actors if a.born < end_us / 1e6 - 1 and a.dies > end_us / 1e6]
            stood += _still_us(ego, present, end_us).tolist()
    stood = np.array(stood)
    assert 0.2 < (stood > 500_000).mean() < 0.8
    assert (stood > 2_000_000).mean() > 0.1


def test_a_street_with_stops_is_another_street_of_its_own():
    plain, _ = simulate(Settings(0.25, 0), "train", 0)
    still = []
    events, boxes = simulate(Settings(0.25, 0, stops=True), "train", 0, still=still)
    assert events.tobytes() != plain.tobytes()
    assert len(np.concatenate(still)) == len(boxes)


def test_the_option_writes_times_beside_labels_and_is_remembered(tmp_path):
    words = ["--train=1", "--val=0", "--test=0", "--seconds=0.25", "--workers=1"]
    assert main([str(tmp_path), "--stops", *words]) == 0
    (recording,) = list_recordings(tmp_path)
    assert recording.boxes is not None
    still_us = read_still(recording.boxes, len(read_boxes(recording.boxes)))
    assert still_us is not None
    assert json.loads((tmp_path / "synthetic.json").read_text())["stops"] is True
    assert main([str(tmp_path), *words]) == 1


def test_without_the_option_settings_are_stored_as_ever(tmp_path):
    plan(tmp_path, {}, Settings(1.0, 0))
    stored = json.loads((tmp_path / "synthetic.json").read_text())
    assert stored == {"seconds": 1.0, "seed": 0, "version": 1}


def test_a_file_of_times_must_fit_its_labels(tmp_path):
    boxes = tmp_path / "a_bbox.npy"
    assert read_still(boxes, 3) is None
    write_still(boxes, np.array([0, 5]))
    with pytest.raises(ValueError, match=r"a_still_us.npy: holds \[2\] of int64, expected 3 times"):
        read_still(boxes, 3)
    still_path(boxes).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a_still_us.npy: is not a readable .npy file"):
        read_still(boxes, 3)
