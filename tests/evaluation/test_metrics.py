"""What a cache can be scored by, and that perfect detections score 1 wherever it can."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from evaluation.metrics import left_out, refuse_unready, refuse_unserved, score
from evaluation.pictures import draw_detections, precision_recall
from gen1.coco import evaluate
from gen1.dat import write_dat
from gen1.labels import write_boxes
from gen1.protocol import PROTOCOLS
from gen1.spec import BOX, EVENT
from preprocessing.__main__ import main
from preprocessing.dataset import HistogramDataset
from preprocessing.geometry import Geometry

pytestmark = pytest.mark.filterwarnings("ignore:.*labels have no sample")


def boxes_at(times_us, width_px=60.0):
    """A car each, at another place each time."""
    boxes = np.zeros(len(times_us), BOX)
    boxes["t"], boxes["x"], boxes["w"] = times_us, 5 * (np.arange(len(boxes)) % 40), width_px
    boxes["y"], boxes["h"] = 20, 50
    return boxes


def times(hz, seconds=2.0):
    return np.rint(np.arange(1, seconds * hz + 1) * 1e6 / hz).astype(int) - 1


@pytest.fixture
def split(tmp_path):
    """split(boxes, *options) -> the val split of a cache of one recording of 2 s."""

    def build(boxes, *options, height=240, width=304):
        events = np.zeros(2000, EVENT)
        events["t"] = np.linspace(0, 1_999_999, len(events))
        folder = tmp_path / "data" / "val"
        folder.mkdir(parents=True)
        write_dat(folder / "r_td.dat", events, height, width)
        write_boxes(folder / "r_bbox.npy", boxes, "1mpx")
        size = ["--time-steps", "1", "--downsample", "4", "--height", str(height)]
        size += ["--width", str(width), "--input", str(tmp_path / "data")]
        assert main([*size, "--output", str(tmp_path / "cache"), *options]) == 0
        return HistogramDataset(tmp_path / "cache", "val", Geometry(height, width, 4))

    return build


def perfect(dataset):
    """Every sample finds the labels that it is joined to, and each other sample what is near."""
    found, labels = [], dataset.labels("r")
    for index, (_, t_us) in enumerate(dataset.label_times):
        boxes = labels[labels["t"] == dataset.label_us(index)]
        if not len(boxes):
            boxes = labels[[np.abs(labels["t"] - t_us).argmin()]]
        boxes["t"], boxes["class_confidence"] = t_us, 0.9
        found.append(boxes)
    return {"r": np.concatenate(found)}


@pytest.mark.parametrize("every_ms", [10, 20, 50, 100])
@pytest.mark.parametrize("hz", [1, 2, 4])
def test_perfect_detections_at_strides_score_1(split, every_ms, hz):
    dataset = split(boxes_at(times(hz)), "--every-ms", str(every_ms))
    assert left_out(dataset) == {}
    for protocol in PROTOCOLS:
        assert score(dataset, perfect(dataset), protocol).map_50_95 == pytest.approx(1)
    if every_ms == 10:  # nine samples near a label find its object nine times
        every = evaluate([dataset.labels("r")], [perfect(dataset)["r"]], PROTOCOLS["all-boxes"])
        assert every.n_detections > 5 * every.n_labels


def test_a_sample_farther_away_than_the_tolerance_is_not_scored(split):
    dataset = split(boxes_at([300_000, 640_000, 1_200_000]), "--every-ms", "200")
    reasons = left_out(dataset)
    assert reasons["all-boxes"] == (
        "1 of 3 label times that count have no sample (samples every 200 ms)"
    )
    assert "prophesee" not in reasons


@pytest.mark.parametrize(
    ("boxes", "options", "expected"),
    [
        (boxes_at(times(4)), [], {}),
        (boxes_at(times(60)), [], {}),
        (
            boxes_at(times(4)),
            ["--keep", "prophesee"],
            {"all-boxes": "2 of 8 label times that count have no sample (samples at label times, "
             "keep: prophesee)"},
        ),
        (
            boxes_at([500_001, 600_000, 750_001]),
            ["--keep", "rvt"],
            {"prophesee": "1 of 3 label", "all-boxes": "1 of 3 label"},
        ),
        (boxes_at(times(4), 8), [], {"prophesee": "none of 8 labels counts", "rvt": "none of 8"}),
        (
            boxes_at(times(60)),
            ["--every-ms", "50"],
            {"prophesee": "59 of 90 label times", "all-boxes": "80 of 120 label times"},
        ),
        (
            boxes_at(times(4)),
            ["--every-ms", "700"],
            dict.fromkeys(PROTOCOLS, "have no sample (samples every 700 ms)"),
        ),
        (
            boxes_at([2_060_000, 100_000, 850_000]),  # the first lies behind the last sample
            ["--every-ms", "100"],
            {},
        ),
        (boxes_at([]), [], dict.fromkeys(PROTOCOLS, "none of 0 labels counts")),
    ],
)  # fmt: skip
def test_only_protocols_that_the_samples_serve_are_scored(split, boxes, options, expected):
    dataset = split(boxes, *options)
    reasons = left_out(dataset)
    assert reasons.keys() == expected.keys()
    assert all(text in reasons[name] for name, text in expected.items())
    for name in PROTOCOLS:
        if name in expected:
            with pytest.raises(ValueError, match=f"split val: protocol {name} cannot be scored"):
                refuse_unserved(dataset, name)
        else:
            assert refuse_unserved(dataset, name) == reasons
            assert score(dataset, perfect(dataset), name).map_50_95 > 0.5


def test_rvt_is_not_scored_on_another_sensor(split):
    dataset = split(boxes_at(times(4)), height=480, width=640)
    rule = "it crops labels to 239x303 px, the sensor has 480x640"
    assert left_out(dataset) == {"rvt": rule}


@pytest.mark.parametrize(
    ("boxes", "options", "sentence"),
    [
        (boxes_at([]), [], "none of 0 labels has a sample"),
        (boxes_at([60_000]), ["--every-ms", "500"], "none of 1 labels has a sample .samples every"),
        (boxes_at(times(4), 8), ["--keep", "prophesee"], "none of 8 labels .*keep: prophesee"),
    ],
)
def test_a_split_without_a_target_is_refused(split, boxes, options, sentence):
    dataset = split(boxes, *options)
    with pytest.raises(ValueError, match=f"split val: {sentence}"):
        refuse_unready(dataset, dataset, "all-boxes")


def test_a_third_class_is_drawn():
    boxes = boxes_at([600_000, 600_000, 600_000])
    boxes["class_id"], boxes["class_confidence"] = [0, 1, 2], 0.5
    classes = ("car", "pedestrian", "truck")
    metrics = evaluate([boxes], [boxes], PROTOCOLS["all-boxes"], classes)
    (axes,) = precision_recall(metrics.precision, metrics.per_class).axes
    assert len(axes.get_lines()) == 3
    axes = Figure().subplots()
    draw_detections(axes, np.zeros((1, 2, 60, 76), np.uint8), 4, boxes, boxes, "", classes)
    assert [text.get_text() for text in axes.texts][2] == "truck 0.50"
