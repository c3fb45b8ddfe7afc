"""Overlap of axis-aligned boxes."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

EPS = 1e-7


def complete_iou(
    a_xyxy: Float[Tensor, "*#n 4"], b_xyxy: Float[Tensor, "*#n 4"]
) -> Float[Tensor, "*#n"]:
    """CIoU of boxes [..., 4] in any one unit, broadcast against each other -> [...].

    IoU less the normalised centre distance less an aspect term, whose weight carries no
    gradient. Heights, not widths, are kept from zero by 1e-7.
    Source: Zheng et al., "Distance-IoU Loss", AAAI 2020, arXiv:1911.08287.
    """
    a_x1, a_y1, a_x2, a_y2 = a_xyxy.unbind(-1)
    b_x1, b_y1, b_x2, b_y2 = b_xyxy.unbind(-1)
    a_w, a_h = a_x2 - a_x1, a_y2 - a_y1 + EPS
    b_w, b_h = b_x2 - b_x1, b_y2 - b_y1 + EPS

    overlap_w = (torch.minimum(a_x2, b_x2) - torch.maximum(a_x1, b_x1)).clamp(0)
    overlap_h = (torch.minimum(a_y2, b_y2) - torch.maximum(a_y1, b_y1)).clamp(0)
    overlap = overlap_w * overlap_h
    iou = overlap / (a_w * a_h + b_w * b_h - overlap + EPS)

    hull_w = torch.maximum(a_x2, b_x2) - torch.minimum(a_x1, b_x1)
    hull_h = torch.maximum(a_y2, b_y2) - torch.minimum(a_y1, b_y1)
    hull_diagonal2 = hull_w**2 + hull_h**2 + EPS
    centre_distance2 = ((b_x1 + b_x2 - a_x1 - a_x2) ** 2 + (b_y1 + b_y2 - a_y1 - a_y2) ** 2) / 4

    aspect = (4 / math.pi**2) * (torch.atan(b_w / b_h) - torch.atan(a_w / a_h)) ** 2
    with torch.no_grad():
        weight = aspect / (aspect - iou + (1 + EPS))
    return iou - (centre_distance2 / hull_diagonal2 + aspect * weight)
