"""Loss and target assignment of the anchor-based head against the authors'."""

from functools import partial

import pytest
import torch
from torch import Tensor

from models.ems.head import STRIDES, AnchorDetect, cells_of
from models.ems.loss import AnchorGains, AnchorLoss, Matches, match, target_objectness
from models.ems.network import GEN1_ANCHORS

close = partial(torch.testing.assert_close, rtol=0, atol=1e-9)
by_case = pytest.mark.parametrize("case", ["some", "none"])


def golden_case(figures, case: str) -> tuple[list[Tensor], Tensor]:
    """Raw maps [B, 3 * 7, H, W] and targets [M, 6] (image, class, x1, y1, x2, y2 in px)."""
    cells = [torch.tensor(figures[f"{case}/p{i}"]) for i in (0, 1)]
    maps = [c.permute(0, 1, 4, 2, 3).flatten(1, 2).requires_grad_() for c in cells]
    rows = torch.tensor(figures[f"{case}/targets"])
    H, W = (side * 16 for side in maps[0].shape[-2:])
    centre, half = rows[:, 2:4] * torch.tensor([W, H]), rows[:, 4:] * torch.tensor([W, H]) / 2
    return maps, torch.cat([rows[:, :2], centre - half, centre + half], dim=1)


@by_case
def test_golden_loss(golden, case):
    figures = golden("ems_yolo/ems_loss_g1.npz")
    maps, targets = golden_case(figures, case)
    losses = AnchorLoss(2, GEN1_ANCHORS, image_size=320)(maps, targets)
    assert [*losses] == ["box", "obj", "cls"]
    items = torch.stack([*losses.values()])
    total = items.sum() * len(maps[0])
    total.backward()
    close(items.detach(), torch.tensor(figures[f"{case}/items_box_obj_cls"]))
    close(total.detach(), torch.tensor(figures[f"{case}/loss"])[0])
    for index, raw in enumerate(maps):
        close(cells_of(raw.grad, 3), torch.tensor(figures[f"{case}/gp{index}"]))


@by_case
def test_golden_assignment(golden, case):
    figures = golden("ems_yolo/ems_loss_g1.npz")
    maps, targets = golden_case(figures, case)
    for index, (raw, anchors, stride) in enumerate(zip(maps, GEN1_ANCHORS, STRIDES, strict=True)):
        found = match(targets, raw.shape[-2:], stride, anchors)
        places = torch.stack(found[:5], dim=1)
        assert torch.equal(places, torch.tensor(figures[f"{case}/assign{index}"]))
        close(found.box_xywh, torch.tensor(figures[f"{case}/tbox{index}"]))
        chosen = torch.tensor(anchors).view(-1, 2).double()[found.anchor] / stride
        close(chosen, torch.tensor(figures[f"{case}/anch{index}"]))


def test_gains_follow_classes_and_image(golden):
    """0.05 * 1.5, (320 / 640)^2 * 1.5 and 0.5 * 2 / 80 * 1.5; the image is that of the maps."""
    published = torch.tensor(golden("ems_yolo/ems_loss_g1.npz")["gains_box_obj_cls"])
    close(AnchorLoss(2, GEN1_ANCHORS)._gains([published.new_zeros(1, 21, 16, 20)]), published)


def test_two_ranks_shares_sum_to_the_whole(golden):
    maps, targets = golden_case(golden("ems_yolo/ems_loss_g1.npz"), "some")
    whole = AnchorLoss(2, GEN1_ANCHORS)(maps, targets)
    parts = [([raw[:1] for raw in maps], targets[targets[:, 0] == 0])]
    rest = targets[targets[:, 0] > 0]
    parts.append(([raw[1:] for raw in maps], rest - rest.new_tensor([1, 0, 0, 0, 0, 0])))
    seen: list[Tensor] = []
    for part in parts:
        AnchorLoss(2, GEN1_ANCHORS, sum_over_ranks=lambda c: seen.append(c) or c)(*part)
    together = AnchorLoss(2, GEN1_ANCHORS, sum_over_ranks=lambda _: sum(seen[:2]))
    first, second = (together(*part) for part in parts)
    close({name: first[name] + second[name] for name in whole}, whole)


def test_the_last_of_several_matches_sets_the_objectness():
    place = torch.zeros(3, dtype=torch.long)
    twice = Matches(place, place, place, torch.tensor([1, 1, 0]), place, torch.zeros(3, 4))
    target = target_objectness(torch.zeros(1, 1, 1, 3), twice, torch.tensor([0.25, 0.5, 0.75]))
    assert target.tolist() == [[[[0.75, 0.5, 0.0]]]]


def test_a_centre_outside_the_map_is_seen_from_the_cell_that_answers():
    """Of a 2x2 map of stride 32, the last column and row; the first ones from the other side."""
    anchors = (64.0, 64.0)
    beyond, before = (torch.tensor([[0, 0, a, a, a + 64, a + 64.0]]) for a in (44.0, -80.0))
    found = match(beyond, (2, 2), 32, anchors)
    assert set(zip(found.column.tolist(), found.row.tolist(), strict=True)) == {(1, 1)}
    close(found.box_xywh[0], torch.tensor([76 / 32 - 1, 76 / 32 - 1, 2, 2]))
    found = match(before, (2, 2), 32, anchors)
    assert set(zip(found.column.tolist(), found.row.tolist(), strict=True)) == {(0, 0)}
    close(found.box_xywh[0], torch.tensor([-48 / 32, -48 / 32, 2, 2]))


def test_one_class_is_left_to_objectness():
    maps = [torch.randn(1, 18, 4, 4), torch.randn(1, 18, 2, 2)]
    targets = torch.tensor([[0, 0, 10.0, 10, 50, 60]])
    losses = AnchorLoss(1, GEN1_ANCHORS, AnchorGains(cls=100))(maps, targets)
    assert losses["box"] > 0 < losses["obj"]
    assert losses["cls"] == 0


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(1, 5), r"targets have shape \(1, 5\), expected \[M, 6\]"),
        (torch.tensor([[0, 2, 0, 0, 9, 9.0]]), r"name a class outside 0\.\.1"),
        (torch.tensor([[1, 0, 0, 0, 9, 9.0]]), r"name an image outside 0\.\.0"),
    ],
)
def test_impossible_targets_are_refused(targets, message):
    maps = [torch.zeros(1, 21, 4, 4), torch.zeros(1, 21, 2, 2)]
    with pytest.raises(ValueError, match=message):
        AnchorLoss(2, GEN1_ANCHORS)(maps, targets)


def test_a_new_head_expects_few_objects():
    """8 in a 640 px image, over the cells of each scale."""
    torch.manual_seed(0)
    head = AnchorDetect((4, 4), 2, GEN1_ANCHORS)
    for conv, cells in zip(head.convs, (40**2, 20**2), strict=True):
        bias = conv.bias.detach().view(3, 7)
        assert bias[:, 4].sigmoid().tolist() == pytest.approx([8 / cells] * 3, rel=0.8)
        assert bias[:, 5:].sigmoid().mean().item() == pytest.approx(0.6 / 1.6, abs=0.15)
