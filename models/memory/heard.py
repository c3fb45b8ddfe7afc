"""Where a memory listens: where events come, and everywhere while it holds nothing."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from models.operations import Work


class Heard(nn.Module):
    """Events [T, B, C, s*H, s*W] of a window -> where they are heard, bool [B, 1, H, W].

    A cell is heard if it, or one of the eight around it, has more than `events` a px. held: what
    the memory keeps [B, ...], None or all 0 of a sample at rest, which is heard everywhere.
    """

    def __init__(self, stride: int, events: float) -> None:
        super().__init__()
        self.stride, self.events = stride, events

    def forward(
        self, x: Float[Tensor, "T B C _ _"], held: Float[Tensor, "B ..."] | None
    ) -> Bool[Tensor, "B 1 H W"]:
        cells = F.avg_pool2d(x.float().sum((0, 2))[:, None], self.stride)
        heard = F.max_pool2d(cells, 3, 1, 1) > self.events
        if held is None:
            return torch.ones_like(heard)
        return heard | (held == 0).flatten(1).all(1)[:, None, None, None]

    def work(self, inputs: tuple[Tensor, ...], output: Tensor) -> list[Work]:
        """Each event is added once."""
        return [Work("", inputs[0].numel(), inputs[0].double().sum().item(), output.numel())]

    def extra_repr(self) -> str:
        return f"stride={self.stride}, events={self.events}"
