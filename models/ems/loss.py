"""Loss of an anchor-based head: box overlap, objectness and class scores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from models.boxes import complete_iou
from models.ems.head import STRIDES, Anchors, cells_of, centre_offsets, sizes
from models.loss import check_targets

LARGEST_RATIO = 4.0  # of a box's side and an anchor's, either way, for them to match
NEIGHBOUR = 0.5  # cells; a centre nearer to the next cell than this is its target too
BALANCE = (4.0, 1.0)  # of the objectness of strides 16 and 32


@dataclass(frozen=True)
class AnchorGains:
    """Weights of the parts of the loss, before they are scaled to the task as published.

    Args:
        box: Of the box overlap, 1 - CIoU.
        obj: Of the objectness, binary cross entropy; scaled by (image side / 640)^2.
        cls: Of the class scores, binary cross entropy; scaled by classes / 80.
    """

    box: float = 0.05
    obj: float = 1.0
    cls: float = 0.5


class Matches(NamedTuple):
    """Anchors that answer for a box, m of them on one scale: where, which class, which box."""

    image: Int[Tensor, " m"]
    anchor: Int[Tensor, " m"]
    row: Int[Tensor, " m"]
    column: Int[Tensor, " m"]
    label: Int[Tensor, " m"]
    box_xywh: Float[Tensor, "m 4"]  # in cells; x, y from the corner of the cell


class AnchorLoss(nn.Module):
    """Loss of raw maps against labelled boxes.

    maps: [B, n (5 + nc), H/s, W/s], s = 16, 32. targets: [M, 6] rows (image, class, x1, y1, x2,
    y2) in network px; M may be 0. Returns "box", "obj" and "cls" per image, gains applied; their
    sum times B is the published figure to call backward on. `image_size` in px scales objectness;
    None takes the longer side of the maps. With `sum_over_ranks`, means are over all processes'
    matches and images, and the results are this one's share of the sum.
    Raises ValueError for targets of another shape, an unknown class or image.
    """

    def __init__(
        self,
        num_classes: int,
        anchors: Anchors,
        gains: AnchorGains = AnchorGains(),
        image_size: int | None = None,
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda totals: totals,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.anchors = anchors
        self.gains = gains
        self.image_size = image_size
        self.sum_over_ranks = sum_over_ranks

    def forward(
        self, maps: list[Float[Tensor, "B _ _ _"]], targets: Tensor
    ) -> dict[str, Float[Tensor, ""]]:
        B = maps[0].shape[0]
        check_targets(targets, B, self.num_classes)
        targets = targets.to(maps[0])
        found = [
            match(targets, maps[i].shape[-2:], STRIDES[i], self.anchors[i])
            for i in range(len(STRIDES))
        ]
        counts = maps[0].new_tensor([B, *(len(matches.image) for matches in found)])
        images, *matched = self.sum_over_ranks(counts)
        parts = []
        for i, matches in enumerate(found):
            box, obj, cls = self._scale_terms(maps[i], matches, self.anchors[i], STRIDES[i])
            share = 1 / matched[i].clamp(min=1)
            weighed = (box * share, obj * BALANCE[i] * B / images, cls * share / self.num_classes)
            parts.append(torch.stack(weighed))
        summed = torch.stack(parts).sum(0) * self._gains(maps)
        return dict(zip(("box", "obj", "cls"), summed, strict=True))

    def _scale_terms(
        self,
        raw: Float[Tensor, "B _ H W"],
        matches: Matches,
        anchors: tuple[float, ...],
        stride: int,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        """Of one scale: summed 1 - CIoU, mean objectness loss, summed class loss."""
        anchor_wh = raw.new_tensor(anchors).view(-1, 2) / stride
        cells = cells_of(raw, len(anchor_wh))
        chosen = cells[matches.image, matches.anchor, matches.row, matches.column]
        xy = centre_offsets(chosen[:, :2])
        wh = sizes(chosen[:, 2:4], anchor_wh[matches.anchor])
        overlap = complete_iou(as_corners(torch.cat((xy, wh), 1)), as_corners(matches.box_xywh))

        objectness = target_objectness(cells[..., 4], matches, overlap.detach().clamp(0))
        obj = F.binary_cross_entropy_with_logits(cells[..., 4], objectness)
        if self.num_classes == 1:  # objectness says it all
            return (1 - overlap).sum(), obj, chosen.new_zeros(())
        labels = F.one_hot(matches.label, self.num_classes).to(chosen)
        cls = F.binary_cross_entropy_with_logits(chosen[:, 5:], labels, reduction="sum")
        return (1 - overlap).sum(), obj, cls

    def _gains(self, maps: list[Float[Tensor, "B _ _ _"]]) -> Float[Tensor, "3"]:
        """The gains scaled as published, for 3 scales, 80 classes and 640 px."""
        side = self.image_size or max(maps[0].shape[-2:]) * STRIDES[0]
        scales = 3 / len(STRIDES)
        box = self.gains.box * scales
        obj = self.gains.obj * scales * (side / 640) ** 2
        cls = self.gains.cls * scales * self.num_classes / 80
        return maps[0].new_tensor([box, obj, cls])


def match(
    targets: Float[Tensor, "M 6"],
    size_hw: tuple[int, int] | torch.Size,
    stride: int,
    anchors: tuple[float, ...],
) -> Matches:
    """The anchors [w, h, ...] px of one scale of H x W cells that answer for targets [M, 6] px.

    An anchor matches a box whose sides are less than 4 times, and more than a quarter of, its
    own; there the cell of the box's centre and the nearer neighbours left or right and above or
    below it, inside the map, answer. Ordered by cell, anchor, target.
    """
    H, W = size_hw
    grid = targets.new_tensor([W, H])
    anchor_wh = targets.new_tensor(anchors).view(-1, 2) / stride
    corners = targets[:, 2:] / stride
    wh = corners[:, 2:] - corners[:, :2]
    ratio = wh[None] / anchor_wh[:, None]
    fits = torch.maximum(ratio, 1 / ratio).amax(2) < LARGEST_RATIO
    anchor, index = fits.nonzero(as_tuple=True)
    centre, wh = (corners[index, :2] + corners[index, 2:]) / 2, wh[index]

    from_end = grid - centre
    near_left, near_top = ((centre % 1 < NEIGHBOUR) & (centre > 1)).T
    near_right, near_bottom = ((from_end % 1 < NEIGHBOUR) & (from_end > 1)).T
    own = torch.ones_like(near_left)
    answers = torch.stack((own, near_left, near_top, near_right, near_bottom))
    steps = targets.new_tensor([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]]) * NEIGHBOUR

    direction, which = answers.nonzero(as_tuple=True)
    cell = (centre[which] - steps[direction]).long().clamp(min=0)
    cell = torch.minimum(cell, cell.new_tensor([W, H]) - 1)
    index = index[which]
    image, label = targets[index, 0].long(), targets[index, 1].long()
    box_xywh = torch.cat((centre[which] - cell, wh[which]), dim=1)
    return Matches(image, anchor[which], cell[:, 1], cell[:, 0], label, box_xywh)


def target_objectness(
    logits: Float[Tensor, "B n H W"], matches: Matches, overlap: Float[Tensor, " m"]
) -> Float[Tensor, "B n H W"]:
    """[B, n, H, W]: the overlap at matched anchors, of several matches the last one's; else 0."""
    B, n, H, W = logits.shape
    place = ((matches.image * n + matches.anchor) * H + matches.row) * W + matches.column
    order = torch.arange(len(place), device=place.device)
    last = torch.full((B * n * H * W,), -1, device=place.device)
    last.scatter_reduce_(0, place, order, "amax")
    target = logits.new_zeros(B * n * H * W)
    matched = last >= 0
    target[matched] = overlap[last[matched]]
    return target.view(B, n, H, W)


def as_corners(xywh: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """Centre and size [..., 4] -> x1 y1 x2 y2."""
    centre, half = xywh[..., :2], xywh[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)
