from functools import partial

import pytest
import torch

from models.assign import TaskAlignedAssigner, anchors_inside, resolve_conflicts
from models.boxes import complete_iou
from models.decode import anchor_points, decode
from models.loss import DetectionLoss, LossGains, distribution_focal_loss

CASES = ["nc2_64x96", "nc2_64x96_notarget", "nc80_64x96"]
close = partial(torch.testing.assert_close, rtol=0, atol=1e-9)


def golden_case(figures):
    """Raw maps and targets [M, 6] (image, class, x1, y1, x2, y2 in px) of a golden file."""
    maps = [torch.tensor(figures[f"raw{i}"], requires_grad=True) for i in range(3)]
    boxes = torch.tensor(figures["bboxes_xywhn"])
    size = torch.tensor([float(figures["W"]), float(figures["H"])], dtype=torch.float64)
    centre, half = boxes[:, :2] * size, boxes[:, 2:] * size / 2
    image, label = (torch.tensor(figures[name])[:, None] for name in ("batch_idx", "cls"))
    return maps, torch.cat([image, label, centre - half, centre + half], dim=1)


@pytest.mark.parametrize("case", CASES)
def test_golden_loss(golden, case):
    figures = golden(f"spikeyolo/loss_{case}.npz")
    maps, targets = golden_case(figures)
    losses = DetectionLoss(int(figures["nc"]))(maps, targets)
    assert [*losses] == ["box", "cls", "dfl"]
    items = torch.stack([*losses.values()])
    total = items.sum() * len(maps[0])
    total.backward()
    close(items.detach(), torch.tensor(figures["loss_items_box_cls_dfl"]))
    close(total.detach(), torch.tensor(figures["total"]))
    for index, raw in enumerate(maps):
        close(raw.grad, torch.tensor(figures[f"grad{index}"]))


@pytest.mark.parametrize("case", CASES)
def test_golden_assignment(golden, case):
    figures = golden(f"spikeyolo/loss_{case}.npz")
    maps, targets = golden_case(figures)
    maps = [raw.detach() for raw in maps]
    criterion = DetectionLoss(int(figures["nc"]))
    points, strides = anchor_points(maps)
    boxes, scores = decode(maps)
    padded = criterion._padded(targets, len(boxes), boxes.dtype)
    assigned = criterion.assigner(scores, boxes, points * strides, *padded)

    foreground = torch.tensor(figures["fg_mask"])
    assert torch.equal(assigned.foreground, foreground)
    assert foreground.any() == (len(targets) > 0)
    close(boxes, torch.tensor(figures["pred_boxes_xyxy_px"]))
    close(assigned.scores.sum(-1), torch.tensor(figures["target_score_sum_per_anchor"]))
    expected_gt = torch.tensor(figures["target_gt_idx"]).long()
    assert torch.equal(assigned.gt[foreground], expected_gt[foreground])
    expected_boxes = torch.tensor(figures["target_boxes_xyxy_px"])
    close(assigned.boxes_xyxy[foreground], expected_boxes[foreground])
    expected_class = torch.tensor(figures["target_score_argmax"]).long()
    assert torch.equal(assigned.scores.argmax(-1)[foreground], expected_class[foreground])


def random_maps(B: int = 2, num_classes: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(B, 64 + num_classes, 64 // s, 96 // s) for s in (8, 16, 32)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


ROWS = [[0, 1, 10, 12, 40, 50], [1, 0, 5, 5, 90, 60], [0, 0, 30, 8, 70, 44.5]]


def test_order_of_targets_does_not_matter():
    maps, targets = random_maps(), torch.tensor(ROWS, dtype=torch.float64)
    criterion = DetectionLoss(2)
    losses = criterion(maps, targets)
    for order in ([2, 0, 1], [1, 2, 0]):
        close(criterion(maps, targets[order]), losses)


def test_gains_scale_their_parts():
    maps, targets = random_maps(), torch.tensor(ROWS, dtype=torch.float64)
    losses = DetectionLoss(2)(maps, targets)
    twice = DetectionLoss(2, LossGains(15.0, 0.5, 1.5))(maps, targets)
    close(twice, {**losses, "box": 2 * losses["box"]})


def test_a_box_beyond_the_frame_is_still_learnt():
    """Its corners sum to less than zero, yet it covers anchors."""
    criterion = DetectionLoss(2)
    target = torch.tensor([[0, 1, -120.0, -120.0, 60.0, 60.0]], dtype=torch.float64)
    assert criterion(random_maps(), target)["box"] > 0


def test_a_box_without_anchor_changes_nothing():
    criterion, maps = DetectionLoss(2), random_maps()
    targets = torch.tensor(ROWS, dtype=torch.float64)
    empty = torch.tensor([[1, 1, 20.0, 20.0, 20.0, 20.0]], dtype=torch.float64)
    close(criterion(maps, torch.cat([targets, empty])), criterion(maps, targets))


@pytest.mark.parametrize(
    ("targets", "complaint"),
    [
        (torch.zeros(3, 5), r"shape \(3, 5\), expected \[M, 6\]"),
        (torch.tensor([[2.0, 0, 1, 1, 9, 9]]), r"image outside 0\.\.1"),
        (torch.tensor([[0.0, 2, 1, 1, 9, 9]]), r"class outside 0\.\.1"),
        (torch.tensor([[0.0, -1, 1, 1, 9, 9]]), r"class outside 0\.\.1"),
    ],
)
def test_impossible_targets_are_refused(targets, complaint):
    with pytest.raises(ValueError, match=complaint):
        DetectionLoss(2)(random_maps(), targets)


def test_ciou_by_hand():
    a = torch.tensor([0.0, 0, 4, 4], dtype=torch.float64)
    assert complete_iou(a, a).item() == pytest.approx(1, abs=1e-6)
    shifted = a + torch.tensor([4.0, 0, 4, 0])  # beside it: IoU 0, centres 4 apart, hull 8 x 4
    assert complete_iou(a, shifted).item() == pytest.approx(-16 / 80, abs=1e-6)


def test_distribution_focal_loss_by_hand():
    logits = torch.full((1, 4, 16), -30.0, dtype=torch.float64)
    logits[..., 2:4] = 0  # half the mass in bin 2, half in bin 3
    distances = torch.tensor([[2.0, 2.5, 2.25, 3.0]], dtype=torch.float64)
    assert distribution_focal_loss(logits, distances).item() == pytest.approx(0.6931471805599453)
    beyond = torch.full((1, 4), 99.0, dtype=torch.float64)  # clamped to 14.99: finite
    assert torch.isfinite(distribution_focal_loss(logits, beyond)).all()


def test_contested_anchor_goes_to_the_largest_overlap_of_all_objects():
    chosen = torch.tensor([[[True, True], [True, False], [False, False]]])
    overlap = torch.tensor([[[0.2, 0.5], [0.3, 0.0], [0.9, 0.0]]])
    resolved = resolve_conflicts(chosen, overlap)
    assert resolved.tolist() == [[[False, True], [False, False], [True, False]]]


def test_an_anchor_on_the_edge_is_outside():
    points = torch.tensor([[4.0, 4.0], [4.0, 5.0], [12.0, 5.0]], dtype=torch.float64)
    box = torch.tensor([[[3.0, 4.0, 12.0, 9.0]]], dtype=torch.float64)
    assert anchors_inside(points, box).tolist() == [[[False, True, False]]]


def test_topk_bounds_the_anchors_of_an_object():
    maps = random_maps(B=1)
    points, strides = anchor_points(maps)
    boxes, scores = decode(maps)
    gt = torch.tensor([[[2.0, 2.0, 94.0, 62.0]]], dtype=torch.float64)
    label, valid = torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, dtype=torch.bool)
    for topk in (1, 5):
        assigned = TaskAlignedAssigner(topk)(scores, boxes, points * strides, label, gt, valid)
        assert assigned.foreground.sum() == topk
