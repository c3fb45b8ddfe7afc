"""Which anchor learns which object: the task-aligned assigner.

Source: Feng et al., "TOOD: Task-aligned One-stage Object Detection", ICCV 2021, arXiv:2108.07755.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.boxes import complete_iou

EPS = 1e-9


class Assignment(NamedTuple):
    """Per image and anchor: `foreground` bool [B, A], the index of its object `gt` [B, A],
    that object's box `boxes_xyxy` [B, A, 4] and soft class targets `scores` [B, A, nc]."""

    foreground: Bool[Tensor, "B A"]
    gt: Int[Tensor, "B A"]
    boxes_xyxy: Float[Tensor, "B A 4"]
    scores: Float[Tensor, "B A nc"]


@dataclass(frozen=True)
class TaskAlignedAssigner:
    """Gives each object the `topk` anchors of highest score^alpha * CIoU^beta inside it.

    Args:
        topk: Anchors per object.
        alpha: Exponent of the classification score.
        beta: Exponent of the overlap.
    """

    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0

    @torch.no_grad()
    def __call__(
        self,
        scores: Float[Tensor, "B A nc"],
        boxes_xyxy: Float[Tensor, "B A 4"],
        points: Float[Tensor, "A 2"],
        gt_labels: Int[Tensor, "B N"],
        gt_xyxy: Float[Tensor, "B N 4"],
        gt_valid: Bool[Tensor, "B N"],
    ) -> Assignment:
        """Assign N padded objects per image to A anchors; boxes and points in px.

        scores [B, A, nc] in [0, 1]; boxes_xyxy [B, A, 4]; points [A, 2]; gt_labels [B, N] int64;
        gt_xyxy [B, N, 4]; gt_valid [B, N] bool, False for padding.
        """
        B, A, num_classes = scores.shape
        N = gt_labels.shape[1]
        if N == 0:
            nothing = torch.zeros(B, A, dtype=torch.bool, device=scores.device)
            return Assignment(
                nothing, nothing.long(), torch.zeros_like(boxes_xyxy), torch.zeros_like(scores)
            )
        inside = anchors_inside(points, gt_xyxy)
        overlap = complete_iou(gt_xyxy[:, :, None], boxes_xyxy[:, None]).clamp(0)
        overlap = overlap * (inside & gt_valid[..., None])
        gt_scores = scores.transpose(1, 2).gather(1, gt_labels[..., None].expand(B, N, A))
        metric = gt_scores**self.alpha * overlap**self.beta
        metric = metric * (inside & gt_valid[..., None])

        chosen = self._best_anchors(metric) & inside & gt_valid[..., None]
        chosen = resolve_conflicts(chosen, overlap)
        foreground = chosen.any(1)
        gt = chosen.int().argmax(1)

        metric = metric * chosen
        best_metric = metric.amax(-1, keepdim=True)
        best_overlap = (overlap * chosen).amax(-1, keepdim=True)
        weight = (metric * best_overlap / (best_metric + EPS)).amax(1)

        labels = gt_labels.gather(1, gt)
        one_hot = F.one_hot(labels, num_classes) * foreground[..., None]
        boxes = gt_xyxy.gather(1, gt[..., None].expand(B, A, 4))
        return Assignment(foreground, gt, boxes, one_hot * weight[..., None])

    def _best_anchors(self, metric: Float[Tensor, "B N A"]) -> Bool[Tensor, "B N A"]:
        """The topk anchors of each object, [B, N, A] bool."""
        best = metric.topk(min(self.topk, metric.shape[-1]), dim=-1).indices
        return torch.zeros_like(metric, dtype=torch.bool).scatter_(-1, best, True)


def anchors_inside(
    points: Float[Tensor, "A 2"], gt_xyxy: Float[Tensor, "B N 4"]
) -> Bool[Tensor, "B N A"]:
    """Is the anchor point [A, 2] inside the box [B, N, 4]? -> bool [B, N, A]."""
    left_top, right_bottom = gt_xyxy[:, :, None].chunk(2, dim=-1)
    return torch.cat((points - left_top, right_bottom - points), dim=-1).amin(-1) > EPS


def resolve_conflicts(
    chosen: Bool[Tensor, "B N A"], overlap: Float[Tensor, "B N A"]
) -> Bool[Tensor, "B N A"]:
    """An anchor wanted by several objects goes to the one it overlaps most, of all objects."""
    contested = chosen.sum(1, keepdim=True) > 1
    closest = torch.zeros_like(chosen).scatter_(1, overlap.argmax(1, keepdim=True), True)
    return torch.where(contested, closest, chosen)
