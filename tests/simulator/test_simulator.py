"""The simulator: what its recordings are like, its geometry, its pixels, and its command."""

import json
import re
import zlib

import numpy as np
import pytest

from gen1.dat import DatReader
from gen1.labels import read_boxes
from gen1.protocol import PROTOCOLS
from gen1.recordings import list_recordings
from gen1.spec import BOX, EVENT
from simulator.__main__ import main
from simulator.camera import Camera, Sensor
from simulator.canvas import LOG_UNIT, ONE
from simulator.cast import cast, ego_motion
from simulator.figures import car_side, pedestrian
from simulator.portable import Draws, wave
from simulator.recordings import STEP_US, Settings, plan, run, simulate
from simulator.render import Renderer
from simulator.riders import cyclist, two_wheeler
from simulator.scene import Actor, Ego
from simulator.spec import CLASSES, HEIGHT, WIDTH
from simulator.vehicles import bus_front, truck_front, truck_side

CAR, PEDESTRIAN = CLASSES.index("car"), CLASSES.index("pedestrian")
SECONDS = 4.0
STILL = Ego(0.0, 105.0, (), ())
QUIET = Sensor(threshold=0.25, mismatch=0.0, refractory_us=100, noise_hz=0.0, hot_pixels=0)


@pytest.fixture(scope="module")
def streets():
    """(events, boxes) of a few recordings."""
    return [simulate(Settings(SECONDS, seed=0), "train", index) for index in range(5)]


@pytest.fixture(scope="module")
def casts():
    """Where every labelled actor is at 4 Hz in many streets, without rendering: class, box."""
    rows = []
    for index in range(16):
        draws = Draws(7, index)
        ego = ego_motion(draws)
        for actor in cast(draws, ego, 10.0):
            t = np.arange(0.25, 10.0, 0.25)
            t = t[(t >= actor.born) & (t < actor.dies)]
            if actor.class_id is None or not len(t):
                continue
            boxes = actor.boxes(ego, t)[actor.opacity(t) >= ONE // 2]
            boxes = boxes[(boxes[:, 2] > 20) & (boxes[:, 0] < WIDTH - 20)]
            rows += [(actor.class_id, *box) for box in boxes]
    return np.array(rows)


def test_a_seed_gives_these_bytes_on_every_machine():
    events, boxes = simulate(Settings(seconds=0.5, seed=3), "val", 1)
    assert (len(events), len(boxes)) == (287_413, 5)
    assert zlib.crc32(events.tobytes()) == 0x3D49140A
    assert zlib.crc32(boxes.tobytes()) == 0xF3860182


def test_every_split_and_index_is_another_street():
    first, _ = simulate(Settings(0.25, 0), "train", 0)
    again, _ = simulate(Settings(0.25, 0), "train", 0)
    assert first.tobytes() == again.tobytes()
    for seed, split, index in ((0, "train", 1), (0, "val", 0), (1, "train", 0)):
        other, _ = simulate(Settings(0.25, seed), split, index)
        assert other.tobytes() != first.tobytes()


@pytest.mark.slow
def test_rates_are_those_of_the_real_camera(streets):
    for events, _ in streets:
        assert 0.3e6 <= len(events) / SECONDS <= 1.5e6


@pytest.mark.slow
def test_events_lie_on_the_sensor_in_order_of_time(streets):
    for events, _ in streets:
        assert events.dtype == EVENT
        assert events["t"][0] >= 0
        assert events["t"][-1] < SECONDS * 1e6
        assert (np.diff(events["t"]) >= 0).all()
        assert events["x"].max() == WIDTH - 1
        assert events["y"].max() == HEIGHT - 1
        assert 0.3 < events["p"].mean() < 0.7


@pytest.mark.slow
def test_labels_come_at_4_hz_for_visible_objects(streets):
    boxes = np.concatenate([boxes for _, boxes in streets])
    assert boxes.dtype == BOX
    assert set(boxes["t"] % 250_000) == {249_999}
    assert set(boxes["class_id"]) == {CAR, PEDESTRIAN}
    assert (boxes["w"] > 0).all()
    assert (boxes["h"] > 0).all()
    inside_w = np.minimum(boxes["x"] + boxes["w"], WIDTH) - np.maximum(boxes["x"], 0)
    inside_h = np.minimum(boxes["y"] + boxes["h"], HEIGHT) - np.maximum(boxes["y"], 0)
    assert (inside_w * inside_h >= 0.29 * boxes["w"] * boxes["h"]).all()
    assert 0.03 < (inside_w < boxes["w"] - 1).mean() < 0.4
    for _, of_one in streets:
        assert len(set(of_one["track_id"])) == len(of_one)
        assert 1.0 <= len(of_one) / (4 * SECONDS) <= 5.0


@pytest.mark.slow
def test_objects_make_more_events_than_their_surroundings(streets):
    inside = pixels = everywhere = 0
    for events, boxes in streets:
        everywhere += len(events) / SECONDS * 0.25 * len(boxes) / (HEIGHT * WIDTH)
        for box in boxes:
            end = int(box["t"]) + 1
            recent = events[slice(*np.searchsorted(events["t"], (end - 250_000, end)))]
            x1, y1 = max(box["x"], 0), max(box["y"], 0)
            x2, y2 = min(box["x"] + box["w"], WIDTH), min(box["y"] + box["h"], HEIGHT)
            hit = (
                (recent["x"] >= x1) & (recent["x"] < x2) & (recent["y"] >= y1) & (recent["y"] < y2)
            )
            inside += hit.sum() / ((x2 - x1) * (y2 - y1))
            pixels += 1
    assert inside / pixels > 1.5 * everywhere / pixels


def test_size_alone_does_not_tell_the_class(casts):
    is_car = casts[:, 0] == CAR
    w, h = casts[:, 3] - casts[:, 1], casts[:, 4] - casts[:, 2]
    assert 0.3 < is_car.mean() < 0.7
    for size in (w * h, h, np.hypot(w, h)):
        cuts = np.quantile(size, np.linspace(0, 1, 101))[:, None]
        larger = size > cuts
        accuracy = (larger[:, is_car].mean(axis=1) + 1 - larger[:, ~is_car].mean(axis=1)) / 2
        assert max(accuracy.max(), 1 - accuracy.min()) < 0.75


def test_the_prophesee_protocol_drops_a_realistic_share(casts):
    boxes = np.zeros(len(casts), BOX)
    boxes["t"] = 1_000_000
    boxes["w"], boxes["h"] = casts[:, 3] - casts[:, 1], casts[:, 4] - casts[:, 2]
    assert 0.05 < 1 - PROTOCOLS["prophesee"].keep(boxes).mean() < 0.25


@pytest.mark.parametrize("facing", [1, -1])
@pytest.mark.parametrize(
    "figure", [pedestrian, car_side, truck_side, truck_front, bus_front, two_wheeler, cyclist]
)
def test_boxes_hug_what_is_drawn(figure, facing):
    t = np.array([0.1, 0.35, 0.6])
    for seed in range(4):
        away_m = 9.0 if figure is truck_side else 8.0  # a lorry of 8.6 m must fit into the frame
        actor = Actor(figure(Draws(seed)), 0, facing, 0.0, 0.3, away_m, 0.4, -0.5, rate=1.1)
        renderer = Renderer(Draws(9), STILL, [actor])
        for k in renderer.render(t):
            rows, columns = np.nonzero(renderer.owner == 0)
            drawn = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            np.testing.assert_allclose(actor.boxes(STILL, t)[k], drawn, atol=2.0)


def test_the_nearer_object_hides_the_farther_one():
    car = Actor(car_side(Draws(1)), CAR, 1, 0.0, 0.0, 6.0, 0.0, 0.0)
    person = Actor(pedestrian(Draws(2)), PEDESTRIAN, 1, 0.0, 0.0, 12.0, 0.0, 0.0)
    renderer = Renderer(Draws(3), STILL, [car, person])
    next(renderer.render(np.array([0.1])))
    seen = np.bincount(renderer.owner[renderer.owner >= 0], minlength=2)
    assert seen[0] == renderer.covered[0]
    assert seen[1] < 0.5 * renderer.covered[1]


def test_an_approaching_object_grows():
    car = Actor(car_side(Draws(1)), CAR, 1, 0.0, 0.0, 20.0, 0.0, -5.0)
    boxes = car.boxes(STILL, np.array([0.0, 2.0]))
    width = boxes[:, 2] - boxes[:, 0]
    assert width[1] == pytest.approx(2 * width[0])


def _film(levels, sensor, step_us=STEP_US):
    """Events of a uniform scene whose log-luminance takes these values, one per step."""
    frames = [np.full((HEIGHT, WIDTH), round(level * LOG_UNIT), np.int32) for level in levels]
    camera = Camera(Draws(5), sensor, frames[0], step_us)
    return np.concatenate([camera.expose(frame) for frame in frames[1:]])


@pytest.mark.parametrize("slope", [0.5, -0.5])
def test_crossing_times_are_interpolated(slope):
    """0.5 per step of 2000 us over a threshold of 0.25: an event every 1000 us, each pixel."""
    events = _film([0.0, slope, 2 * slope, 3 * slope], QUIET)
    assert set(events["p"]) == {int(slope > 0)}
    pixel = events[(events["x"] == 200) & (events["y"] == 100)]
    assert len(pixel) in (5, 6, 7)
    assert set(np.diff(pixel["t"])) <= {999, 1000, 1001}
    assert len(np.unique(events["t"][events["t"] < 1000])) > 850  # pixels are not in step


def test_no_pixel_fires_within_its_refractory_period():
    slow = Sensor(threshold=0.25, mismatch=0.0, refractory_us=1500, noise_hz=0.0, hot_pixels=0)
    events = _film([0.0, 0.5, 1.0, 1.5], slow)
    pixel = events[(events["x"] == 10) & (events["y"] == 20)]
    assert (np.diff(pixel["t"]) >= 1500).all()
    assert len(pixel) == 3


def test_thresholds_differ_between_pixels():
    spread = Sensor(threshold=0.25, mismatch=0.05, refractory_us=100, noise_hz=0.0, hot_pixels=0)
    events = _film(np.arange(0.0, 10.0, 0.25), spread)
    counts = np.bincount(events["y"].astype(np.int64) * WIDTH + events["x"])
    assert 1.5 < counts.std() < 2.6
    assert counts.mean() == pytest.approx(9.75 / 0.25, rel=0.02)


def test_a_still_scene_gives_background_activity_and_hot_pixels():
    sensor = Sensor(noise_hz=1.0, hot_pixels=5, hot_hz=200.0)
    events = _film([0.3] * 501, sensor)
    counts = np.bincount(events["y"].astype(np.int64) * WIDTH + events["x"])
    hot = np.sort(counts)[-5:]
    assert hot.sum() == pytest.approx(5 * 200, rel=0.15)
    assert counts.sum() - hot.sum() == pytest.approx(HEIGHT * WIDTH, rel=0.03)


def test_the_wave_is_a_sine():
    cycles = np.linspace(-2, 3, 1001)
    np.testing.assert_allclose(wave(cycles), np.sin(2 * np.pi * cycles), atol=1.2e-3)


@pytest.mark.slow
def test_two_workers_write_what_one_writes(tmp_path):
    for folder, workers in (("one", 1), ("two", 2)):
        jobs = plan(tmp_path / folder, {"train": 1, "val": 1}, Settings(0.25, 0))
        assert sum(run(jobs, workers)) > 0
    for path in sorted((tmp_path / "one").rglob("*_*")):
        assert (
            path.read_bytes()
            == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
        )


def test_recordings_are_files_of_gen1(tmp_path):
    main([str(tmp_path), "--train", "1", "--val", "0", "--test", "0", "--seconds", "0.5"])
    (recording,) = list_recordings(tmp_path)
    events, boxes = simulate(Settings(0.5, 0), "train", 0)
    reader = DatReader(recording.dat)
    assert (reader.height, reader.width, reader.n_events) == (HEIGHT, WIDTH, len(events))
    assert reader.read().tobytes() == events.tobytes()
    assert np.load(recording.boxes).dtype.itemsize == 33
    assert read_boxes(recording.boxes).tobytes() == boxes.tobytes()


def test_the_same_command_continues_an_interrupted_run(tmp_path, capsys):
    command = [str(tmp_path), "--train=2", "--val=0", "--test=0", "--seconds=0.25", "--workers=1"]
    main(command)
    first, second = sorted((tmp_path / "train").glob("*_td.dat"))
    kept, lost = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    main(command)
    assert first.stat().st_mtime_ns == kept
    assert second.read_bytes() == lost
    assert "1 recordings made, 1 kept from before" in capsys.readouterr().out


def test_other_settings_on_the_same_folder_are_refused(tmp_path):
    plan(tmp_path, {}, Settings(1.0, 0))
    with pytest.raises(ValueError, match=r"synthetic.json: recordings made with .*'seed': 0"):
        plan(tmp_path, {}, Settings(1.0, 1))
    (tmp_path / "synthetic.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON, expected the settings"):
        plan(tmp_path, {}, Settings(1.0, 0))


def test_recordings_of_another_origin_are_left_alone(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "17-03-30_td.dat").touch()
    with pytest.raises(ValueError, match=r"recordings without synthetic.json, expected an empty"):
        plan(tmp_path, {"train": 1}, Settings(1.0, 0))
    assert not (tmp_path / "synthetic.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--seconds", "0.3"], "seconds is 0.3, expected a multiple of 0.25"),
        (["--seconds", ".nan"], "seconds is nan, expected"),
        (["--seed", "-1"], "seed is -1, expected 0 or more"),
        (["--train", "-2"], "'train': -2"),
        (["--workers", "0"], "0 workers, expected"),
    ],
)
def test_a_wrong_option_ends_in_one_sentence(tmp_path, capsys, arguments, sentence):
    assert main([str(tmp_path / "out"), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert sentence in error
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert main([str(tmp_path / "out"), "--train", "1"]) == 1
    assert re.match(r"error: .*out", capsys.readouterr().err)


def test_settings_are_kept_beside_the_recordings(tmp_path):
    plan(tmp_path, {}, Settings(2.5, 4))
    stored = json.loads((tmp_path / "synthetic.json").read_text())
    assert (stored["seconds"], stored["seed"]) == (2.5, 4)


def test_a_split_without_recordings_has_no_folder(tmp_path):
    plan(tmp_path / "out", {"train": 0, "val": 0, "test": 1}, Settings(0.25, seed=0))
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["test"]
