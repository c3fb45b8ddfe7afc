"""Raw maps -> boxes and scores -> detections."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

REG_MAX = 16
STRIDES = (8, 16, 32)
SUPPRESSED_AT_ONCE = 512  # candidates compared with each other in one go


@dataclass(frozen=True)
class DetectConfig:
    """From raw maps to the detections that are scored.

    Args:
        score_threshold: Least score of a detection, in (0, 1).
        iou_threshold: Overlap above which the weaker box of a class is dropped, in (0, 1).
        max_detections: Most detections per label time.
    """

    score_threshold: float = 0.001
    iou_threshold: float = 0.7
    max_detections: int = 300


def anchor_points(
    maps: list[Float[Tensor, "B C _ _"]],
) -> tuple[Float[Tensor, "A 2"], Float[Tensor, "A 1"]]:
    """Cell centres of maps [B, C, H/s, W/s]: points [A, 2] (x, y) in cells, strides [A, 1] in px.

    Anchors are ordered stride 8, 16, 32, row-major.
    """
    points, strides = [], []
    for feature_map, stride in zip(maps, STRIDES, strict=True):
        H, W = feature_map.shape[-2:]
        device, dtype = feature_map.device, feature_map.dtype
        x = torch.arange(W, device=device, dtype=dtype) + 0.5
        y = torch.arange(H, device=device, dtype=dtype) + 0.5
        y, x = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack((x, y), dim=-1).view(-1, 2))
        strides.append(feature_map.new_full((H * W, 1), stride))
    return torch.cat(points), torch.cat(strides)


def flatten_maps(
    maps: list[Float[Tensor, "B C _ _"]],
) -> tuple[Float[Tensor, "B A 4 16"], Float[Tensor, "B A nc"]]:
    """Raw maps [B, 64 + nc, H/s, W/s] -> side logits [B, A, 4, 16] and class logits [B, A, nc]."""
    flat = torch.cat([m.flatten(2) for m in maps], dim=2).transpose(1, 2)
    sides, classes = flat.split((4 * REG_MAX, flat.shape[-1] - 4 * REG_MAX), dim=-1)
    return sides.unflatten(-1, (4, REG_MAX)), classes


def expected_distances(side_logits: Float[Tensor, "*n 4 16"]) -> Float[Tensor, "*n 4"]:
    """Mean of the distribution over 0..15 cells: [..., 4, 16] -> [..., 4] in cells."""
    bins = torch.arange(REG_MAX, device=side_logits.device, dtype=side_logits.dtype)
    return side_logits.softmax(-1) @ bins


def distances_to_boxes(
    distances: Float[Tensor, "*n A 4"], points: Float[Tensor, "A 2"]
) -> Float[Tensor, "*n A 4"]:
    """Left, top, right, bottom distances [..., A, 4] from points [A, 2] -> x1 y1 x2 y2."""
    left_top, right_bottom = distances.chunk(2, dim=-1)
    return torch.cat((points - left_top, points + right_bottom), dim=-1)


def decode(
    maps: list[Float[Tensor, "B C _ _"]],
) -> tuple[Float[Tensor, "B A 4"], Float[Tensor, "B A nc"]]:
    """Raw maps [B, 64 + nc, H/s, W/s], s = 8, 16, 32 -> boxes and scores of every anchor.

    Returns boxes_xyxy [B, A, 4] in network px and scores [B, A, nc] in [0, 1]; anchors are
    ordered stride 8, 16, 32, row-major.
    """
    points, strides = anchor_points(maps)
    side_logits, class_logits = flatten_maps(maps)
    boxes = distances_to_boxes(expected_distances(side_logits), points) * strides
    return boxes, class_logits.sigmoid()


def non_max_suppression(
    boxes_xyxy: Float[Tensor, "B A 4"],
    scores: Float[Tensor, "B A nc"],
    score_threshold: float = 0.001,
    iou_threshold: float = 0.7,
    max_detections: int = 300,
    multi_label: bool = True,
    class_agnostic: bool = False,
    max_candidates: int = 30_000,
) -> list[Float[Tensor, "n 6"]]:
    """Greedy suppression within each class: the best box removes those of IoU > iou_threshold.

    boxes_xyxy: [B, A, 4] px; scores: [B, A, nc]. `multi_label` lets one anchor report several
    classes; `class_agnostic` lets classes suppress each other. Returns per image [n, 6] rows
    x1 y1 x2 y2 score class, best first, n <= max_detections; of equal scores the earlier anchor
    wins. There is no time limit: the same input always gives the same boxes.
    """
    return [
        _suppress(
            _candidates(image_boxes, image_scores, score_threshold, multi_label)[:max_candidates],
            iou_threshold,
            max_detections,
            class_agnostic,
        )
        for image_boxes, image_scores in zip(boxes_xyxy, scores, strict=True)
    ]


def _candidates(
    boxes: Float[Tensor, "A 4"],
    scores: Float[Tensor, "A nc"],
    score_threshold: float,
    multi_label: bool,
) -> Float[Tensor, "n 6"]:
    """Rows x1 y1 x2 y2 score class above the threshold, best first."""
    if multi_label:
        anchor, label = (scores > score_threshold).nonzero(as_tuple=True)
    else:
        best, label = scores.max(dim=1)
        anchor = (best > score_threshold).nonzero()[:, 0]
        label = label[anchor]
    score = scores[anchor, label]
    rows = torch.cat((boxes[anchor], score[:, None], label[:, None].to(boxes)), dim=1)
    return rows[score.argsort(descending=True, stable=True)]


def _suppress(
    rows: Float[Tensor, "n 6"], iou_threshold: float, max_detections: int, class_agnostic: bool
) -> Float[Tensor, "kept 6"]:
    """Keep the best row, drop what it covers, repeat; rows are sorted best first."""
    kept = rows[:0]
    for chunk in rows.split(SUPPRESSED_AT_ONCE):
        covered = _covers(kept, chunk, iou_threshold, class_agnostic).any(0)
        chunk = chunk[~covered]
        covers = _covers(chunk, chunk, iou_threshold, class_agnostic).triu(1).cpu()
        alive = torch.ones(len(chunk), dtype=torch.bool)
        for index in range(len(chunk)):
            if alive[index]:
                alive &= ~covers[index]
        kept = torch.cat((kept, chunk[alive.to(chunk.device)]))[:max_detections]
        if len(kept) == max_detections:
            break
    return kept


def _covers(
    rows: Float[Tensor, "n 6"],
    others: Float[Tensor, "m 6"],
    iou_threshold: float,
    class_agnostic: bool,
) -> Bool[Tensor, "n m"]:
    """Does a row [n, 6] overlap another [m, 6] (of its class) by more than the threshold? [n, m]"""
    a, b = rows[:, None], others[None]
    size = torch.minimum(a[..., 2:4], b[..., 2:4]) - torch.maximum(a[..., :2], b[..., :2])
    overlap = size.clamp(0).prod(-1)
    area_a, area_b = ((box[..., 2:4] - box[..., :2]).prod(-1) for box in (a, b))
    covers = overlap > iou_threshold * (area_a + area_b - overlap)
    return covers if class_agnostic else covers & (a[..., 5] == b[..., 5])
