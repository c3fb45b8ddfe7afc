from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.decode import SUPPRESSED_AT_ONCE, anchor_points, decode, non_max_suppression

PREDICT = {"score_threshold": 0.25, "iou_threshold": 0.45, "multi_label": False}
SETTINGS = {
    "val": {},
    "val_single": {"multi_label": False},
    "predict": PREDICT,
    "predict_agnostic": {**PREDICT, "class_agnostic": True},
    "val_maxdet20": {"max_detections": 20},
}
close = partial(torch.testing.assert_close, rtol=0, atol=1e-9)


def test_golden_decode(golden):
    figures = golden("spikeyolo/decode_nc80_64x96.npz")
    maps = [torch.tensor(figures[f"raw{i}"]) for i in range(3)]
    boxes, scores = decode(maps)
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    close(torch.cat([centre, size, scores], -1).transpose(1, 2), torch.tensor(figures["y"]))
    points, strides = anchor_points(maps)
    close(points.T, torch.tensor(figures["anchors_xy"]))
    close(strides.T, torch.tensor(figures["strides"]))


@pytest.mark.parametrize("setting", SETTINGS)
def test_golden_suppression(golden, setting):
    figures = golden("spikeyolo/nms_nc80.npz")
    prediction = torch.tensor(figures["pred_xywh_cls"]).transpose(1, 2)
    centre, half = prediction[..., :2], prediction[..., 2:4] / 2
    boxes = torch.cat([centre - half, centre + half], dim=-1)
    found = non_max_suppression(boxes, prediction[..., 4:], **SETTINGS[setting])
    assert [len(rows) for rows in found] == figures[f"{setting}_counts"].tolist()
    close(torch.cat(found), torch.tensor(figures[f"{setting}_dets"]))


def test_a_sure_distribution_gives_its_box():
    """All mass on 1, 2, 3, 4 cells around the anchor at (12, 20) px, stride 8."""
    maps = [torch.zeros(1, 66, 64 // s, 96 // s) for s in (8, 16, 32)]
    for side, cells in enumerate((1, 2, 3, 4)):
        maps[0][0, 16 * side + cells, 2, 1] = 100
    boxes, scores = decode(maps)
    assert boxes.shape == (1, 126, 4)
    assert scores.shape == (1, 126, 2)
    assert boxes[0, 2 * 12 + 1].tolist() == pytest.approx([4, 4, 36, 52])
    assert scores.unique().tolist() == [0.5]


def slow_suppression(rows, iou_threshold, max_detections, class_agnostic):
    """One box at a time, as the definition reads."""
    kept = []
    for row in rows.tolist():
        if len(kept) < max_detections and not any(
            (class_agnostic or row[5] == best[5]) and iou(row, best) > iou_threshold
            for best in kept
        ):
            kept.append(row)
    return kept


def iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union else 0.0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    anchors=st.integers(0, 60),
    threshold=st.sampled_from([0.0, 0.45, 0.7]),
    max_detections=st.integers(1, 30),
    multi_label=st.booleans(),
    class_agnostic=st.booleans(),
)
def test_suppression_equals_its_definition(
    seed, anchors, threshold, max_detections, multi_label, class_agnostic
):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 12, (1, anchors, 2), generator=generator).double()
    size = torch.randint(0, 9, (1, anchors, 2), generator=generator).double()
    boxes = torch.cat([corner, corner + size], -1)
    scores = torch.randint(0, 8, (1, anchors, 3), generator=generator).double() / 8  # with ties
    (found,) = non_max_suppression(
        boxes, scores, 0.3, threshold, max_detections, multi_label, class_agnostic
    )
    candidates = [
        [*boxes[0, a].tolist(), scores[0, a, c].item(), float(c)]
        for a in range(anchors)
        for c in (range(3) if multi_label else [int(scores[0, a].argmax())])
        if scores[0, a, c] > 0.3
    ]
    candidates.sort(key=lambda row: -row[4])  # stable: earlier anchors first
    rows = torch.tensor(candidates, dtype=torch.float64).reshape(-1, 6)
    expected = slow_suppression(rows, threshold, max_detections, class_agnostic)
    assert found.tolist() == expected


def test_suppression_reaches_across_chunks():
    """The best box covers one more than a chunk away."""
    n = 2 * SUPPRESSED_AT_ONCE
    corner = torch.arange(n, dtype=torch.float64)[:, None] * 10 % 5120
    boxes = torch.cat([corner, corner, corner + 8, corner + 8], 1)[None]  # each twice
    scores = torch.linspace(0.9, 0.1, n, dtype=torch.float64)[None, :, None]
    (found,) = non_max_suppression(boxes, scores, max_detections=n)
    assert torch.equal(found[:, 4], scores[0, : n // 2, 0])


def test_no_candidate_gives_no_row():
    (found,) = non_max_suppression(torch.zeros(1, 5, 4), torch.zeros(1, 5, 2))
    assert found.shape == (0, 6)


def test_max_candidates_keeps_the_best():
    boxes = torch.arange(4.0)[:, None] * 100 + torch.tensor([0.0, 0, 10, 10])
    scores = torch.tensor([[0.2], [0.9], [0.4], [0.8]])
    (found,) = non_max_suppression(boxes[None], scores[None], max_candidates=2)
    assert found[:, 4].tolist() == pytest.approx([0.9, 0.8])
