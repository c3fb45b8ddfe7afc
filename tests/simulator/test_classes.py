"""Streets of other classes than Gen1's: who appears, what is labelled, what describes the set."""

import zlib

import numpy as np
import pytest
import yaml

from gen1.labels import read_boxes
from simulator.__main__ import main
from simulator.camera import Camera, Sensor
from simulator.canvas import ONE, TEXELS_PER_M
from simulator.cast import ENTRANCES, cast, ego_motion
from simulator.portable import Draws
from simulator.recordings import STEP_US, Settings, plan, simulate
from simulator.render import Renderer
from simulator.riders import cyclist, two_wheeler
from simulator.scene import Ego
from simulator.spec import CLASSES, HEIGHT, WIDTH
from simulator.vehicles import bus_front, bus_side, truck_front, truck_side

SIX = ("car", "pedestrian", "truck", "bus", "two-wheeler", "cyclist")
STILL = Ego(0.0, 105.0, (), ())
QUIET = Sensor(threshold=0.25, mismatch=0.0, refractory_us=100, noise_hz=0.0, hot_pixels=0)


def inside(boxes):
    """Share of each box that lies in the frame."""
    low, high = np.maximum(boxes[:, :2], 0), np.minimum(boxes[:, 2:], (WIDTH, HEIGHT))
    return np.maximum(high - low, 0).prod(axis=1) / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def test_six_classes_give_these_bytes_on_every_machine():
    events, boxes = simulate(Settings(0.25, 3, classes=SIX), "val", 1)
    assert (len(events), len(boxes)) == (774_100, 4)
    assert zlib.crc32(events.tobytes()) == 0x498FEE00
    assert zlib.crc32(boxes.tobytes()) == 0xAE0D613C


def test_the_order_of_the_names_changes_ids_alone():
    events, boxes = simulate(Settings(0.25, 0), "train", 1)
    same_events, swapped = simulate(Settings(0.25, 0, classes=CLASSES[::-1]), "train", 1)
    assert same_events.tobytes() == events.tobytes()
    assert set(boxes["class_id"]) == {0, 1}
    swapped["class_id"] = 1 - swapped["class_id"]
    assert swapped.tobytes() == boxes.tobytes()


@pytest.mark.parametrize("classes", [SIX, ("bus", "cyclist")])
def test_every_class_is_in_the_streets_about_as_often(classes):
    counts = np.zeros(len(classes))
    for index in range(24):
        draws = Draws(7, index)
        ego = ego_motion(draws)
        for actor in cast(draws, ego, 5.0, classes):
            t = np.arange(0.25, 5.0, 0.25)
            t = t[(t >= actor.born) & (t < actor.dies) & (actor.opacity(t) >= ONE // 2)]
            if actor.class_id is not None:
                counts[actor.class_id] += (inside(actor.boxes(ego, t)) >= 0.3).sum()
    assert (counts > 0.5 * counts.sum() / len(classes)).all()


@pytest.mark.slow
def test_every_class_is_labelled():
    labels = [simulate(Settings(0.5, 1, classes=SIX), "train", k)[1] for k in range(8)]
    assert set(np.concatenate(labels)["class_id"]) == set(range(len(SIX)))


@pytest.mark.parametrize("name", SIX)
def test_a_box_holds_the_events_of_its_object(name):
    """One mover before a still camera makes all events there are, from side to side of its box."""
    for seed in range(3):
        actor = ENTRANCES[name][1](Draws(seed), STILL, 0.0)
        t = np.arange(0.25, 8.0, 0.125)
        t = t[(actor.opacity(t) == ONE) & (inside(actor.boxes(STILL, t)) == 1)]
        times = t[len(t) // 2] + np.arange(8) * STEP_US / 1e6
        renderer = Renderer(Draws(9), STILL, [actor])
        frames = [renderer.frame.copy() for _ in renderer.render(times)]
        camera = Camera(Draws(5), QUIET, frames[0], STEP_US)
        events = np.concatenate([camera.expose(frame) for frame in frames[1:]])
        boxes = actor.boxes(STILL, times)
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        first = np.array([events["x"].min(), events["y"].min()], float)
        last = np.array([events["x"].max(), events["y"].max()], float) + 1
        slack = 3 + 0.1 * (high - low)
        assert ((low - 2 <= first) & (first <= low + slack)).all()
        assert ((high - slack <= last) & (last <= high + 2)).all()


@pytest.mark.parametrize(
    ("figure", "width_m", "height_m"),
    [
        (bus_side, (11, 12.6), (2.8, 3.2)),
        (bus_front, (2.3, 3.2), (2.8, 3.2)),
        (truck_side, (7.2, 8.8), (2.9, 3.5)),
        (truck_front, (2.3, 3.2), (2.9, 3.5)),
        (two_wheeler, (1.9, 2.2), (1.4, 1.7)),
        (cyclist, (1.6, 1.9), (1.6, 1.9)),
    ],
)
def test_figures_are_as_large_as_the_real_thing(figure, width_m, height_m):
    for seed in range(6):
        extents = np.array([part.sprite.extent for part in figure(Draws(seed))])
        assert width_m[0] < extents[:, 1].max() - extents[:, 0].min() < width_m[1]
        assert extents[:, 2].min() == pytest.approx(0.0, abs=0.03)
        assert height_m[0] < extents[:, 3].max() < height_m[1]


@pytest.mark.parametrize(("figure", "least", "most"), [(cyclist, 0.2, 0.6), (two_wheeler, 0.95, 1)])
def test_one_looks_through_the_wheels_of_a_bicycle(figure, least, most):
    wheel = next(part for part in figure(Draws(1)) if part.wheel_radius)
    opaque_m2 = wheel.sprite.mips[0][1].sum() / ONE / TEXELS_PER_M**2
    assert least <= opaque_m2 / (np.pi * wheel.wheel_radius**2) <= most + 0.01


def test_the_description_names_sensor_and_classes_in_order(tmp_path):
    names = ["truck", "cyclist", "bus"]
    counts = ["--train=1", "--val=0", "--test=0", "--seconds=0.25", "--workers=1"]
    assert main([str(tmp_path), *counts, "--classes", *names]) == 0
    text = (tmp_path / "dataset.yaml").read_text()
    assert text.splitlines()[-1] == "classes: [truck, cyclist, bus]"
    described = {"name": "synthetic", "height": HEIGHT, "width": WIDTH, "classes": names}
    assert yaml.safe_load(text) == described
    boxes = read_boxes(tmp_path / "train" / "synthetic_0000_bbox.npy")
    assert len(boxes)
    assert boxes["class_id"].max() < len(names)


def test_the_default_classes_leave_the_files_as_they_were(tmp_path):
    plan(tmp_path, {}, Settings(0.5, 0))
    (settings,) = tmp_path.iterdir()
    assert settings.name == "synthetic.json"
    assert settings.read_text() == '{\n  "seconds": 0.5,\n  "seed": 0,\n  "version": 1\n}\n'


def test_other_classes_on_the_same_folder_are_refused(tmp_path):
    plan(tmp_path, {}, Settings(0.5, 0, classes=SIX))
    plan(tmp_path, {}, Settings(0.5, 0, classes=SIX))
    for other in (SIX[::-1], SIX[:-1], CLASSES):
        with pytest.raises(ValueError, match=r"synthetic.json: recordings made with .*'cyclist'"):
            plan(tmp_path, {}, Settings(0.5, 0, classes=other))


@pytest.mark.parametrize("names", ["car tram", "bus truck bus", "car"])
def test_wrong_names_end_in_one_sentence(tmp_path, capsys, names):
    assert main([str(tmp_path / "out"), "--classes", *names.split()]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: classes are {', '.join(names.split())}; expected two or more")
    assert error.count("\n") == 1
    assert "two-wheeler, cyclist, each once" in error
    assert not (tmp_path / "out").exists()
