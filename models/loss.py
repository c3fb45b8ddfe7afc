"""Detection loss: box overlap, class scores and the distribution of box sides."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from models.assign import Assignment, TaskAlignedAssigner
from models.boxes import complete_iou
from models.decode import (
    REG_MAX,
    anchor_points,
    distances_to_boxes,
    expected_distances,
    flatten_maps,
)

PUBLISHED_ASSIGNER = TaskAlignedAssigner()


@dataclass(frozen=True)
class LossGains:
    """Weights of the parts of the loss.

    Args:
        box: Of the box overlap, 1 - CIoU.
        cls: Of the class scores, binary cross entropy.
        dfl: Of the distribution of box sides, distribution focal loss.
    """

    box: float = 7.5
    cls: float = 0.5
    dfl: float = 1.5


class DetectionLoss(nn.Module):
    """Loss of raw maps against labelled boxes.

    maps: [B, 64 + nc, H/s, W/s], s = 8, 16, 32. targets: [M, 6] rows (image, class, x1, y1, x2,
    y2) in network px; M may be 0. Returns "box", "cls" and "dfl" per image, gains applied; their
    sum times B is the published figure to call backward on. With `sum_over_ranks` they are
    normalised over all processes, and this one's share of the sum.
    Raises ValueError for targets of another shape, an unknown class or image.
    Source: SpikeYOLO, ECCV 2024; Li et al., "Generalized Focal Loss", NeurIPS 2020.
    """

    def __init__(
        self,
        num_classes: int,
        gains: LossGains = LossGains(),
        assigner: TaskAlignedAssigner = PUBLISHED_ASSIGNER,
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda totals: totals,
    ) -> None:
        super().__init__()
        self.sum_over_ranks = sum_over_ranks
        self.num_classes = num_classes
        self.gains = gains
        self.assigner = assigner

    def forward(
        self, maps: list[Float[Tensor, "B _ _ _"]], targets: Tensor
    ) -> dict[str, Float[Tensor, ""]]:
        B = maps[0].shape[0]
        points, strides = anchor_points(maps)
        side_logits, class_logits = flatten_maps(maps)
        boxes = distances_to_boxes(expected_distances(side_logits), points)
        gt_labels, gt_xyxy, gt_valid = self._padded(targets.to(boxes.device), B, boxes.dtype)

        assigned = self.assigner(
            class_logits.detach().sigmoid(),
            boxes.detach() * strides,
            points * strides,
            gt_labels,
            gt_xyxy,
            gt_valid,
        )
        normaliser = self.sum_over_ranks(assigned.scores.sum()).clamp(min=1)
        cls = F.binary_cross_entropy_with_logits(class_logits, assigned.scores, reduction="sum")
        box, dfl = self._box_terms(side_logits, boxes, points, strides, assigned)
        parts = {"box": box, "cls": cls, "dfl": dfl}
        return {name: part / normaliser * getattr(self.gains, name) for name, part in parts.items()}

    def imitation(self, maps: list[Tensor], teacher: list[Tensor]) -> Tensor:
        """How far class scores and side distributions are from a teacher's of the same shape.

        Kullback-Leibler divergences, those of sides weighted by the teacher's best score, with
        the gains of `cls` and `dfl`, over the sum of those scores: a scalar, 0 for equal maps.
        """
        sides, classes = flatten_maps(maps)
        sides_wanted, classes_wanted = flatten_maps(teacher)
        scores = classes_wanted.sigmoid()
        weight = scores.amax(-1)
        normaliser = self.sum_over_ranks(weight.sum()).clamp(min=1)
        entropy = F.binary_cross_entropy_with_logits(classes_wanted, scores, reduction="sum")
        cls = F.binary_cross_entropy_with_logits(classes, scores, reduction="sum") - entropy
        log_p, log_q = sides.log_softmax(-1), sides_wanted.log_softmax(-1)
        apart = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1).mean(-1)
        return (self.gains.cls * cls + self.gains.dfl * (apart * weight).sum()) / normaliser

    def _box_terms(
        self,
        side_logits: Float[Tensor, "B A 4 16"],
        boxes: Float[Tensor, "B A 4"],
        points: Float[Tensor, "A 2"],
        strides: Float[Tensor, "A 1"],
        assigned: Assignment,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """CIoU and distribution focal loss of the foreground anchors, weighted, summed."""
        foreground = assigned.foreground
        weight = assigned.scores.sum(-1)[foreground]
        target_boxes = assigned.boxes_xyxy / strides
        overlap = complete_iou(boxes[foreground], target_boxes[foreground])
        box = ((1 - overlap) * weight).sum()

        left_top, right_bottom = target_boxes.chunk(2, dim=-1)
        distances = torch.cat((points - left_top, right_bottom - points), dim=-1)
        dfl = distribution_focal_loss(side_logits[foreground], distances[foreground])
        return box, (dfl * weight).sum()

    def _padded(
        self, targets: Tensor, B: int, dtype: torch.dtype
    ) -> tuple[Int[Tensor, "{B} N"], Float[Tensor, "{B} N 4"], Bool[Tensor, "{B} N"]]:
        """Rows [M, 6] -> labels [B, N], boxes [B, N, 4], validity [B, N]; N: the largest count."""
        check_targets(targets, B, self.num_classes)
        image, label = targets[:, 0].long(), targets[:, 1].long()
        counts = torch.bincount(image, minlength=B)
        N = int(counts.max()) if len(targets) else 0
        order = image.argsort(stable=True)
        image = image[order]
        starts = counts.cumsum(0) - counts
        slot = torch.arange(len(image), device=image.device) - starts[image]

        labels = torch.zeros(B, N, dtype=torch.long, device=targets.device)
        boxes = torch.zeros(B, N, 4, dtype=dtype, device=targets.device)
        labels[image, slot] = label[order]
        boxes[image, slot] = targets[order, 2:].to(dtype)
        return labels, boxes, torch.arange(N, device=targets.device) < counts[:, None]


def check_targets(targets: Tensor, B: int, num_classes: int) -> None:
    """ValueError for targets of another shape than [M, 6], an unknown image or class."""
    if targets.dim() != 2 or targets.shape[1] != 6:
        raise ValueError(f"targets have shape {tuple(targets.shape)}, expected [M, 6]")
    image, label = targets[:, 0].long(), targets[:, 1].long()
    for name, values, bound in (("an image", image, B), ("a class", label, num_classes)):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < bound:
            raise ValueError(f"targets name {name} outside 0..{bound - 1}")


def distribution_focal_loss(
    side_logits: Float[Tensor, "n 4 16"], distances: Float[Tensor, "n 4"]
) -> Float[Tensor, " n"]:
    """Cross entropy to the two bins around each side: [n, 4, 16], [n, 4] in cells -> mean [n]."""
    distances = distances.clamp(0, REG_MAX - 1 - 0.01)
    lower = distances.long()
    share = distances - lower
    log_p = side_logits.log_softmax(-1)
    below = log_p.gather(-1, lower[..., None])[..., 0]
    above = log_p.gather(-1, lower[..., None] + 1)[..., 0]
    return -(below * (1 - share) + above * share).mean(-1)
