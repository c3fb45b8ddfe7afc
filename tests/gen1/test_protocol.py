import numpy as np
import pytest

from gen1.labels import as_boxes, clip_boxes
from gen1.protocol import (
    PROTOCOLS,
    TOOLBOX,
    EvalProtocol,
    grid_times,
    join,
    nearest,
    pairs_within,
)
from gen1.spec import BOX

RVT = PROTOCOLS["rvt"]


@pytest.fixture(scope="module")
def figures(golden):
    return dict(golden("gen1/fx_boxfilter.npz"))


@pytest.mark.parametrize(
    ("key", "protocol"),
    [
        ("toolbox_5e5_30_10", PROTOCOLS["prophesee"]),
        ("toolbox_shipped_gen1_1e5_30_20", EvalProtocol("", 100_000, 30, 20)),
        ("toolbox_default_5e5_60_20", EvalProtocol("", 500_000, 60, 20)),
        ("rvt_downsampled_5e5_15_5", EvalProtocol("", 500_000, 15, 5)),
        ("rvt_psee_bbox_filter", EvalProtocol("", min_diagonal_px=30, min_side_px=10)),
        ("rvt_conservative", EvalProtocol("", min_side_px=5)),
    ],
)
def test_kept_boxes_equal_the_public_tools(figures, key, protocol):
    boxes = as_boxes(figures["boxes"])
    np.testing.assert_array_equal(boxes["track_id"][protocol.keep(boxes)], figures[key])


def test_filter_after_clipping_equals_the_public_tool(figures):
    clipped = clip_boxes(as_boxes(figures["boxes"]), 239, 303)
    clipped = clipped[(clipped["w"] > 0) & (clipped["h"] > 0)]
    kept = clipped[EvalProtocol("", min_diagonal_px=30, min_side_px=10).keep(clipped)]
    wanted = figures["rvt_apply_filters_test"]
    np.testing.assert_array_equal(kept["track_id"], wanted["track_id"])


def test_limits_of_prophesee():
    rows = [(500_000, 30, 30), (500_001, 18, 24), (500_001, 9.5, 40), (500_001, 17, 24)]
    boxes = np.zeros(len(rows), BOX)
    boxes["t"], boxes["w"], boxes["h"] = np.array(rows).T
    assert PROTOCOLS["prophesee"].keep(boxes).tolist() == [False, True, False, False]


def test_all_boxes_keeps_every_box(figures):
    assert PROTOCOLS["all-boxes"].keep(as_boxes(figures["boxes"])).all()
    first = np.zeros(1, BOX)  # at 0 us, of no size
    assert PROTOCOLS["all-boxes"].keep(first).all()


def test_presets_carry_their_names():
    assert {name: protocol.name for name, protocol in PROTOCOLS.items()} == {
        "prophesee": "prophesee",
        "all-boxes": "all-boxes",
        "rvt": "rvt",
    }


def test_rules_are_put_in_words():
    near = "detections within 50 ms of their nearest label time"
    size = "boxes later than 0.5 s, diagonals >= 30 px, sides >= 10 px"
    assert {name: rule.in_words() for name, rule in PROTOCOLS.items()} == {
        "prophesee": f"{near}, {size}",
        "all-boxes": near,
        "rvt": f"{near}, label times on a grid of 250 ms, labels cropped to 239x303 px, {size}",
    }
    assert TOOLBOX.in_words() == f"detections at every label time within 50 ms, {size}"


def test_rvt_crops_labels_before_it_looks_at_their_size(figures):
    """At one time, so that the grid plays no part."""
    boxes = as_boxes(figures["boxes"])
    boxes["t"] = 749_999
    wanted = figures["rvt_apply_filters_test"]
    kept = RVT.scored_labels(boxes)
    np.testing.assert_array_equal(kept["track_id"], wanted["track_id"])
    for side in "xywh":
        np.testing.assert_allclose(kept[side], wanted[side], rtol=0, atol=1e-4)
    at_the_edge = np.array([(749_999, 290, 100, 60, 60, 0, 1, 0)], BOX)
    assert PROTOCOLS["prophesee"].scored_labels(at_the_edge)["w"] == 60
    assert RVT.scored_labels(at_the_edge)["w"] == 13
    at_the_edge["x"] = 295  # 8 px are left of it
    assert len(RVT.scored_labels(at_the_edge)) == 0
    assert len(RVT.scored_detections(at_the_edge)) == 1  # detections stay as they are
    assert (at_the_edge["x"], at_the_edge["w"]) == (295, 60)


@pytest.mark.parametrize(
    ("times", "on_grid"),
    [
        ([249_999, 499_999, 999_999], [249_999, 499_999, 999_999]),
        ([99_999, 120_000, 249_999, 370_000], [120_000, 370_000]),  # 99999 comes too early
        ([100_000, 352_000, 604_000, 606_001], [100_000, 352_000, 604_000]),  # each from the last
        ([100_000, 352_001, 347_999, 600_000], [100_000, 600_000]),
        ([100_000, 101_000, 350_000], [100_000, 350_000]),  # no step has passed at 101000
        ([], []),
        ([50_000], []),
    ],
)
def test_rvt_follows_the_grid_of_its_first_label(times, on_grid):
    assert grid_times(np.array(times, np.int64), 250_000).tolist() == on_grid


def test_labels_too_small_do_not_begin_the_grid():
    boxes = np.zeros(4, BOX)
    boxes["t"] = [120_000, 249_999, 749_999, 870_000]
    boxes["w"], boxes["h"] = [9, 40, 40, 40], 40
    assert RVT.scored_labels(boxes)["t"].tolist() == [749_999]


@pytest.mark.parametrize(
    ("times", "others", "reach", "joined"),
    [
        ([], [0, 10], 5, []),
        ([7], [], 5, [-1]),
        ([0, 10, 20], [0, 10, 20], 0, [0, 1, 2]),
        ([1, 11], [0, 10], 0, [-1, -1]),
        ([249_999, 499_999], [200_000, 250_000, 300_000, 500_000], 25_000, [1, 3]),
        ([25], [0, 50], 25, [0]),  # as near to both: the earlier
        ([25, 24], [0, 50], 24, [-1, 0]),
        ([9, 11], [10], 5, [0, -1]),  # as near: the earlier
        ([8, 11], [10], 5, [-1, 0]),
        ([3, 8, 13], [10, 20], 5, [-1, 0, -1]),
        ([24, 26], [25, 75], 50, [0, 1]),  # the second takes what is still free
    ],
)
def test_each_time_is_joined_once_to_the_nearest(times, others, reach, joined):
    times_us, others_us = np.array(times, np.int64), np.array(others, np.int64)
    assert join(times_us, others_us, reach).tolist() == joined


def test_the_nearest_time_is_found():
    times_us = np.array([-5, 0, 4, 5, 6, 100])
    assert nearest(times_us, np.array([0, 10])).tolist() == [0, 0, 0, 0, 1, 1]
    assert nearest(times_us, np.array([3])).tolist() == [0] * 6


def test_pairs_include_both_ends():
    pairs = pairs_within(np.array([10, 20]), np.array([5, 10, 15, 26]), 5)
    assert [part.tolist() for part in pairs] == [[0, 0, 0, 1], [0, 1, 2, 2]]
