from dataclasses import replace

import numpy as np
import pytest

from gen1.coco import evaluate
from gen1.labels import as_boxes
from gen1.protocol import PROTOCOLS, TOOLBOX, EvalProtocol
from gen1.spec import BOX

PROPHESEE, ALL_BOXES, RVT = PROTOCOLS["prophesee"], PROTOCOLS["all-boxes"], PROTOCOLS["rvt"]
RULES = {
    "paper": PROPHESEE,
    "shipped": EvalProtocol("shipped", 100_000, 30, 20, tolerance_us=50_000),
    "readme": EvalProtocol("readme", 500_000, 60, 20, tolerance_us=50_000),
    "nofilter": ALL_BOXES,
    "gt_only": replace(PROPHESEE, filter_detections=False),
}
#: The label times of "early" lie 1 us apart, where only the toolbox's own habit gives its figures.
DENSE = {("early", rule) for rule in ("shipped", "nofilter", "gt_only")}
SCORED_SETS = ["main", "early", "no_ped_gt", "empty_parts", "perfect"]


@pytest.fixture(scope="module")
def figures(golden):
    return dict(golden("gen1/fx_eval.npz"))


def boxes_of(figures, name):
    parts = range(int(figures[f"{name}|n"]))
    return tuple([as_boxes(figures[f"{name}|{kind}{i}"]) for i in parts] for kind in ("gt", "dt"))


def make_boxes(*rows):
    """Rows (t, x, y, w, h, class_id, class_confidence) -> BOX."""
    return np.array([(*row, 0) for row in rows], BOX)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", SCORED_SETS)
def test_figures_equal_the_public_toolbox(figures, name, rule):
    protocol = replace(RULES[rule], shares_detections=(name, rule) in DENSE)
    metrics = evaluate(*boxes_of(figures, name), protocol)
    np.testing.assert_allclose(metrics.stats, figures[f"{name}|{rule}|stats"], rtol=0, atol=1e-9)
    assert (metrics.map_50_95, metrics.map_50) == tuple(metrics.stats[:2])
    if rule != "gt_only":
        ap50_ap = [metrics.per_class[class_name][::-1] for class_name in ("car", "pedestrian")]
        np.testing.assert_allclose(ap50_ap, figures[f"{name}|{rule}|per_class"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SCORED_SETS)
def test_prophesee_equals_rvt(figures, name):
    labels, detections = boxes_of(figures, name)
    stats = evaluate(labels, detections, PROPHESEE).stats
    np.testing.assert_allclose(stats[:6], figures[f"{name}|rvt"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", SCORED_SETS)
def test_rvt_equals_rvt_on_its_own_labels(figures, name):
    labels, detections = boxes_of(figures, name)
    before = [boxes.copy() for boxes in labels]
    # The figures of "early", whose labels lie off the grid, were made without dropping these.
    rule = replace(RVT, label_grid_us=0) if name == "early" else RVT
    stats = evaluate(labels, detections, rule).stats
    np.testing.assert_allclose(stats[:6], figures[f"{name}|rvt_cropped_gt"], rtol=0, atol=1e-9)
    for boxes, copy in zip(labels, before, strict=True):
        np.testing.assert_array_equal(boxes, copy)


def test_rvt_scores_no_label_off_its_grid():
    times = (749_999, 999_999, 1_099_999, 1_249_999)
    labels = make_boxes(*[(t, 10, 10, 50, 50, 0, 1) for t in times])
    found = make_boxes(*[(t, 10, 10, 50, 50, 0, 0.9) for t in times])
    metrics = evaluate([labels], [found], RVT)
    assert (metrics.n_images, metrics.n_labels, metrics.n_detections) == (3, 3, 3)
    assert evaluate([labels], [found], PROPHESEE).n_images == 4


def test_no_detections_is_an_ap_of_zero(figures):
    metrics = evaluate(*boxes_of(figures, "no_dets"), PROPHESEE)
    assert metrics.stats[:5].tolist() == figures["no_dets|rvt"][:5].tolist() == [0] * 5
    assert metrics.n_detections == 0


def test_tolerance_includes_both_ends():
    labels = make_boxes((1_000_000, 10, 10, 50, 50, 0, 1))
    for shift_us, scored in ((-50_001, 0), (-50_000, 1), (50_000, 1), (50_001, 0)):
        found = make_boxes((1_000_000 + shift_us, 10, 10, 50, 50, 0, 0.5))
        assert evaluate([labels], [found], PROPHESEE).n_detections == scored


def dense(hz, n=30):
    """Two objects of two classes that move by 200 px/s, labelled so often."""
    times_us = 600_000 + np.rint(np.arange(n) * 1e6 / hz).astype(int)
    moved = 2e-4 * times_us % 600
    cars = [(t, 20 + x, 60, 40, 40, 0, 1) for t, x in zip(times_us, moved, strict=True)]
    people = [(t, 900 - x, 300, 30, 60, 1, 1) for t, x in zip(times_us, moved, strict=True)]
    return make_boxes(*cars, *people)


@pytest.mark.parametrize("hz", [1, 4, 10, 15, 20, 30, 60, 200])
@pytest.mark.parametrize("protocol", [PROPHESEE, ALL_BOXES, replace(RVT, crop_labels_hw=None)])
def test_perfect_detections_score_1_at_any_label_rate(hz, protocol):
    labels = dense(hz)
    for found in (labels, labels[::-1]):
        assert evaluate([labels, labels], [found, found], protocol).map_50_95 == pytest.approx(1)
    toolbox = evaluate([labels], [labels], TOOLBOX)
    assert (toolbox.map_50_95 < 0.6) == (hz >= 20)
    assert toolbox.protocol.name == "prophesee-toolbox"


@pytest.mark.parametrize(
    ("shift_us", "n_detections"), [(0, 1), (9_999, 1), (10_000, 1), (10_001, 0), (-45_000, 1)]
)
def test_a_detection_belongs_to_its_nearest_label_time_even_if_that_one_does_not_count(
    shift_us, n_detections
):
    """Labels 20 ms apart, the second too small; of two as near the earlier takes it."""
    labels = make_boxes((1_000_000, 10, 10, 50, 50, 0, 1), (1_020_000, 10, 10, 5, 5, 0, 1))
    found = make_boxes((1_000_000 + shift_us, 10, 10, 50, 50, 0, 0.5))
    assert evaluate([labels], [found], PROPHESEE).n_detections == n_detections


def test_boxes_need_not_be_sorted_by_time(figures):
    labels, detections = boxes_of(figures, "main")
    late_first = [
        [boxes[np.argsort(-boxes["t"], kind="stable")] for boxes in parts]
        for parts in (labels, detections)
    ]
    stats = evaluate(labels, detections, PROPHESEE).stats
    np.testing.assert_array_equal(evaluate(*late_first, PROPHESEE).stats, stats)


def test_precision_curve_averages_to_ap50(figures):
    metrics = evaluate(*boxes_of(figures, "no_ped_gt"), PROPHESEE)
    assert metrics.precision.shape == (2, 101)
    assert metrics.precision[0].mean() == pytest.approx(metrics.per_class["car"][1], abs=1e-12)
    assert np.all(np.diff(metrics.precision[0]) <= 0)
    assert np.all(metrics.precision[1] == -1)  # no pedestrian label


def test_one_false_and_one_missed_box_by_hand():
    labels = make_boxes(*[(t, 10, 10, 50, 50, 0, 1) for t in (600_000, 900_000)])
    found = make_boxes((600_000, 10, 10, 50, 50, 0, 0.9), (900_000, 200, 10, 50, 50, 0, 0.8))
    metrics = evaluate([labels], [found], PROPHESEE)
    assert metrics.map_50_95 == pytest.approx(51 / 101)  # recall 0 to 0.5 at precision 1
    counts = (metrics.n_recordings, metrics.n_images, metrics.n_labels, metrics.n_detections)
    assert counts == (1, 2, 2, 2)
    assert metrics.summary() == (
        "mAP 0.505, mAP@50 0.505 (protocol prophesee, 1 recordings, 2 frames, 2 labels)"
    )


def test_inputs_stay_as_they_are_and_nothing_is_printed(figures, capsys):
    labels, detections = boxes_of(figures, "main")
    before = [boxes.copy() for boxes in labels + detections]
    evaluate(labels, detections, PROPHESEE)
    for boxes, copy in zip(labels + detections, before, strict=True):
        np.testing.assert_array_equal(boxes, copy)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("value", [np.nan, np.inf, -1])
def test_nobody_looks_at_the_confidence_of_a_label(value):
    labels = make_boxes((600_000, 10, 10, 50, 50, 0, value))
    found = make_boxes((600_000, 10, 10, 50, 50, 0, 0.5))
    assert evaluate([labels], [found], PROPHESEE).map_50_95 == pytest.approx(1)


GOOD = make_boxes((600_000, 10, 10, 50, 50, 0, 1))


@pytest.mark.parametrize(
    ("labels", "detections", "sentence"),
    [
        ([GOOD], [], "1 label arrays and 0 detection arrays, expected one of each"),
        ([GOOD[:0]], [GOOD], "protocol prophesee keeps none of 0 labels in 1 recordings"),
        ([], [], "keeps none of 0 labels in 0 recordings"),
        (
            [GOOD],
            [make_boxes((0, 1, 1, 9, 9, 2, 1))],
            "detections of recording 0: row 0: class",
        ),
        ([GOOD], [make_boxes((0, 1, 1, 9, 9, 0, np.nan))], "class_confidence is not finite"),
        ([GOOD], [make_boxes((0, np.inf, 1, 9, 9, 0, 1))], "row 0: x is inf"),
    ],
)
def test_unusable_boxes_are_refused(labels, detections, sentence):
    with pytest.raises(ValueError, match=sentence):
        evaluate(labels, detections, PROPHESEE)
