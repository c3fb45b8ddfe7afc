"""Detections of a stream equal those of the evaluation on the same recording."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from evaluation.detect import detect
from gen1.dat import DatReader
from models import build_model
from models.checkpoint import save_checkpoint
from models.decode import DetectConfig
from models.deploy import deploy
from preprocessing.__main__ import main as preprocess
from preprocessing.dataset import HistogramDataset
from preprocessing.histogram import HistogramSettings
from preprocessing.inputs import input_geometry
from streaming.detector import Detector, fit_sensor
from streaming.live import replay

SETTINGS = HistogramSettings(time_steps=2, downsample=4)
CPU = torch.device("cpu")


def small_model(**overrides):
    torch.manual_seed(0)
    model = build_model("spikeyolo-p", variant="gen1", time_steps=2, **overrides).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bn.bias"):  # random weights fire nothing by themselves
                parameter += 0.5
    return model


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def reader(street_cache):
    return DatReader(street_cache.parent / "recordings" / "test" / "r0_td.dat")


@pytest.fixture(scope="module")
def expected(street_cache, model):
    """Boxes that the evaluation finds every 200 ms in r0."""
    recordings, cache = street_cache.parent / "recordings", street_cache.parent / "every"
    options = ["--time-steps", "2", "--downsample", "4", "--every-ms", "200"]
    assert preprocess(["--input", str(recordings), "--output", str(cache), *options]) == 0
    dataset = HistogramDataset(cache, "test", input_geometry(SETTINGS))
    return detect(deploy(model), dataset, DetectConfig(), 1, 0, CPU)["r0"]


def detector(model, **options):
    given = {"every_us": 200_000, "score_threshold": 0.001, "device": "cpu"}
    return Detector(model, SETTINGS, **{**given, **options})


def boxes_of(found):
    return np.concatenate([entry.boxes for entry in found])


def assert_same_boxes(boxes, expected):
    assert boxes.dtype == expected.dtype
    np.testing.assert_array_equal(boxes["t"], expected["t"])
    np.testing.assert_array_equal(boxes["class_id"], expected["class_id"])
    for name in ("x", "y", "w", "h", "class_confidence"):
        np.testing.assert_allclose(boxes[name], expected[name], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("chunk", [7919, 10**9])
def test_boxes_equal_those_of_the_evaluation(model, reader, expected, chunk):
    stream = detector(model)
    events = reader.read()
    found = []
    for first in range(0, len(events), chunk):
        found += stream.feed(events[first : first + chunk])
    found += stream.flush()
    assert [entry.end_us for entry in found] == list(range(450_000, 1_250_001, 200_000))
    assert all(entry.start_us == entry.end_us - 250_000 for entry in found)
    assert [entry.n_events for entry in found] == [
        len(reader.window(entry.start_us, entry.end_us)) for entry in found
    ]
    assert len(expected) > 50
    assert len(np.unique(expected["t"])) == len(found)
    assert_same_boxes(boxes_of(found), expected)


def test_a_checkpoint_or_its_run_is_loaded(model, reader, expected, tmp_path):
    meta = {"name": "spikeyolo-p", "histogram": asdict(SETTINGS), "input": "histogram"}
    save_checkpoint(tmp_path / "best.pt", model.config, model.state_dict(), meta)
    options = {"every_ms": 200, "device": "cpu"}
    events = reader.window(0, 860_000)
    small = tmp_path / "deployed.pt"
    save_checkpoint(small, model.config, deploy(model).state_dict(), meta, kind="deployed")
    for path in (tmp_path, tmp_path / "best.pt", small):
        found = Detector.load(path, score_threshold=0.001, **options).feed(events)
        assert_same_boxes(boxes_of(found), expected[expected["t"] <= 850_000])
    save_checkpoint(tmp_path / "coco.pt", model.config, model.state_dict(), {})
    with pytest.raises(ValueError, match=r"coco\.pt: says of no histograms"):
        Detector.load(tmp_path / "coco.pt", **options)


def test_only_boxes_above_the_threshold_are_reported(model, reader, expected):
    threshold = float(np.median(expected["class_confidence"]))
    stream = detector(model, score_threshold=threshold)
    boxes = boxes_of(stream.feed(reader.read()))
    assert 0 < len(boxes) < len(expected)
    assert boxes["class_confidence"].min() > threshold


@pytest.mark.filterwarnings("ignore:.*labels have no sample")
@pytest.mark.parametrize("input", ["ternary", "authors"])
def test_other_inputs_are_those_of_the_dataset(tmp_path, street_cache, reader, input):
    recordings = street_cache.parent / "recordings"
    options = ["--time-steps", "2", "--representation", "last-polarity", "--every-ms", "400"]
    assert preprocess(["--input", str(recordings), "--output", str(tmp_path), *options]) == 0
    settings = HistogramSettings(time_steps=2, representation="last-polarity")
    model = small_model(in_channels=3)
    dataset = HistogramDataset(tmp_path, "test", input_geometry(settings, input), input=input)
    wanted = detect(deploy(model), dataset, DetectConfig(), 1, 0, CPU)["r0"]
    options = {"every_us": 400_000, "score_threshold": 0.001, "device": "cpu"}
    stream = Detector(model, settings, input=input, **options)
    found = stream.feed(reader.read()) + stream.flush()
    assert len(found) == 2
    assert_same_boxes(boxes_of(found), wanted)


def test_spikes_are_counted_when_asked(model, reader):
    events = reader.read()
    (_, busy, *_) = detector(model, count_spikes=True, every_us=400_000).feed(events)
    assert busy.spikes > 0
    assert 0 < busy.firing_rate < 1
    assert busy.forward_ms > 0 < busy.decode_ms
    (_, uncounted, *_) = detector(model, every_us=400_000).feed(events)
    assert uncounted.spikes is uncounted.firing_rate is None
    twin = detector(small_model(activation="qann"), count_spikes=True, every_us=400_000)
    assert twin.feed(events)[1].spikes is None


def test_carried_membranes_are_those_of_one_long_forward(model, reader):
    carried = detector(model, every_us=250_000, carry_state=True)
    rested = detector(model, every_us=250_000)
    events = reader.window(0, 1_000_001)
    windows = list(rested.windower.windows(events))
    frames = [carried.geometry.fit(window.histogram) for window in windows]
    maps = []
    carried.model.register_forward_hook(lambda *call: maps.append(call[-1]))
    first = carried.feed(events)
    network = deploy(model)
    network.carry_state = True
    for part, got in zip(frames, list(maps), strict=True):
        wanted = network(torch.from_numpy(part)[:, None].float())
        for a, b in zip(wanted, got, strict=True):
            torch.testing.assert_close(a, b)
    alone = rested.detect(windows[-1])
    assert not np.array_equal(first[-1].boxes, alone.boxes)
    carried.reset()
    again = carried.feed(events)
    assert_same_boxes(boxes_of(again), boxes_of(first))


def test_carrying_needs_windows_that_do_not_overlap_and_a_state(model):
    with pytest.raises(ValueError, match="windows of 250000 us every 200000 us"):
        detector(model, carry_state=True)
    with pytest.raises(ValueError, match="activation 'relu'"):
        detector(small_model(activation="relu"), every_us=250_000, carry_state=True)
    assert not model.carry_state


@pytest.mark.parametrize(
    ("trained_downsample", "sensor_hw", "downsample", "network_hw"),
    [
        (1, (240, 304), 1, (256, 320)),
        (1, (260, 346), 1, (288, 352)),  # a little larger: as it is
        (1, (480, 640), 2, (256, 320)),
        (1, (720, 1280), 4, (192, 320)),
        (2, (480, 640), 4, (128, 160)),
        (1, (128, 128), 1, (128, 128)),  # smaller: as it is
    ],
)
def test_another_sensor_is_padded_or_pooled(trained_downsample, sensor_hw, downsample, network_hw):
    trained = HistogramSettings(downsample=trained_downsample)
    settings = fit_sensor(trained, sensor_hw, "histogram")
    assert (settings.height, settings.width) == sensor_hw
    assert settings.downsample == downsample
    assert input_geometry(settings).network_hw == network_hw


@pytest.mark.parametrize(
    ("trained_downsample", "sensor_hw"), [(2, (720, 1280)), (2, (241, 305)), (1, (482, 641))]
)
def test_a_sensor_that_does_not_fit_is_refused(trained_downsample, sensor_hw):
    trained = HistogramSettings(downsample=trained_downsample)
    with pytest.raises(ValueError, match=r"240x304 px with downsample .*, expected \d+x\d+ cells"):
        fit_sensor(trained, sensor_hw, "histogram")


def test_the_authors_input_scales_any_sensor_but_a_tall_one():
    trained = HistogramSettings(representation="last-polarity")
    settings = fit_sensor(trained, (480, 640), "authors")
    assert (settings.height, settings.width, settings.downsample) == (480, 640, 1)
    with pytest.raises(ValueError, match="no taller than wide"):
        fit_sensor(trained, (640, 480), "authors")


def test_boxes_of_a_larger_sensor_are_in_its_pixels(model, reader):
    """Twice the pixels, pooled twice as much: the same network input, boxes twice as large."""
    events = reader.read().copy()
    events["x"] *= 2
    events["y"] *= 2
    settings = replace(SETTINGS, downsample=2)
    options = {"every_us": 200_000, "start_us": 0, "score_threshold": 0.001, "device": "cpu"}
    small = boxes_of(Detector(model, settings, **options).feed(reader.read()))
    large = boxes_of(Detector(model, settings, sensor_hw=(480, 608), **options).feed(events))
    for name in "xywh":
        small[name] *= 2
    assert_same_boxes(large, small)


def test_a_model_of_other_frames_is_refused(model):
    with pytest.raises(ValueError, match="T=4 time steps, the model was built for T=2"):
        Detector(model, replace(SETTINGS, time_steps=4))
    with pytest.raises(ValueError, match="expected last-polarity for the input 'ternary'"):
        Detector(model, SETTINGS, input="ternary")
    with pytest.raises(ValueError, match="has 2 channels, the model was built for 3"):
        Detector(small_model(in_channels=3), SETTINGS)


def test_the_first_window_may_be_warmed_up_for(model, reader):
    events = reader.window(0, 510_000)
    cold = detector(model, every_us=250_000, carry_state=True)
    warm = detector(model, every_us=250_000, carry_state=True)
    warm.warm_up()
    assert_same_boxes(boxes_of(warm.feed(events)), boxes_of(cold.feed(events)))


def test_a_replay_ends_with_the_newest_boxes(model, reader, expected):
    shown = []
    report = replay(detector(model), reader, speed=float("inf"), show=shown.append)
    assert report.windows == 5
    assert report.windows == len(shown) + report.dropped
    assert report.events == reader.n_events
    assert report.percentiles()["max"] > 0
    for found in shown[:-1]:
        assert_same_boxes(found.boxes, expected[expected["t"] == found.end_us])
    assert shown[-1].end_us == 1_250_000
