"""The anchor-based detection head of EMS-YOLO: its maps, and the boxes they mean."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.blocks import per_step

STRIDES = (16, 32)
#: Per stride, in px, one row of (w, h, w, h, ...).
Anchors = tuple[tuple[float, ...], ...]


class AnchorDetect(nn.Module):
    """Membranes [T, B, C_i, H/s, W/s] -> raw maps [B, n (5 + nc), H/s, W/s], s = 16, 32.

    For each of the n anchors of a scale x, y, w, h, objectness and class logits; the mean over
    the T steps of a 1x1 convolution of real values.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int, anchors: Anchors) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, len(sides) // 2 * (5 + num_classes), 1)
            for channels, sides in zip(in_channels, anchors, strict=True)
        )
        self._init_biases()

    @torch.no_grad()
    def _init_biases(self) -> None:
        """Start from about 8 objects in a 640 px image, each class's odds 0.6 to nc - 1."""
        for conv, stride in zip(self.convs, STRIDES, strict=True):
            bias = conv.get_parameter("bias").view(-1, 5 + self.num_classes)
            bias[:, 4] += math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] += math.log(0.6 / (self.num_classes - 0.999999))

    def forward(self, features: list[Float[Tensor, "T B _ _ _"]]) -> list[Float[Tensor, "B _ _ _"]]:
        return [per_step(x, conv).mean(0) for conv, x in zip(self.convs, features, strict=True)]


def cells_of(raw: Float[Tensor, "B C H W"], n_anchors: int) -> Float[Tensor, "B {n_anchors} H W _"]:
    """Raw map [B, n (5 + nc), H, W] -> [B, n, H, W, 5 + nc]."""
    return raw.unflatten(1, (n_anchors, -1)).permute(0, 1, 3, 4, 2)


def centre_offsets(logits: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 2"]:
    """Logits [..., 2] -> centre from the cell's corner, in cells: -0.5 to 1.5."""
    return 2 * logits.sigmoid() - 0.5


def sizes(logits: Float[Tensor, "*n 2"], anchors: Float[Tensor, "*#n 2"]) -> Float[Tensor, "*n 2"]:
    """Logits [..., 2] -> width and height in the unit of the anchors: 0 to 4 of them."""
    return (2 * logits.sigmoid()) ** 2 * anchors


def decode_anchors(
    maps: list[Float[Tensor, "B _ _ _"]], anchors: Anchors
) -> tuple[Float[Tensor, "B A 4"], Float[Tensor, "B A nc"]]:
    """Raw maps [B, n (5 + nc), H/s, W/s], s = 16, 32 -> boxes and scores of every anchor.

    Returns boxes_xyxy [B, A, 4] in network px and scores [B, A, nc] in [0, 1], objectness x class;
    ordered stride 16, 32, then by anchor, row-major.
    """
    boxes, scores = [], []
    for raw, stride, flat in zip(maps, STRIDES, anchors, strict=True):
        anchor_wh = raw.new_tensor(flat).view(-1, 1, 1, 2)
        cells = cells_of(raw, len(anchor_wh))
        H, W = cells.shape[2:4]
        y = torch.arange(H, device=raw.device, dtype=raw.dtype)
        x = torch.arange(W, device=raw.device, dtype=raw.dtype)
        corner = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        centre = (centre_offsets(cells[..., :2]) + corner) * stride
        half = sizes(cells[..., 2:4], anchor_wh) / 2
        boxes.append(torch.cat((centre - half, centre + half), dim=-1).flatten(1, 3))
        found = cells[..., 4:].sigmoid()
        scores.append((found[..., :1] * found[..., 1:]).flatten(1, 3))
    return torch.cat(boxes, dim=1), torch.cat(scores, dim=1)
