import numpy as np
import pytest

from gen1.labels import as_boxes, clip_boxes
from gen1.protocol import PROTOCOLS, EvalProtocol
from gen1.spec import BOX


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
    }
