"""The light head: a spiking feature pyramid, class logits per px. Ours, beside the mask head."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from models.blocks import NeuronFactory
from models.detector import Upsample
from models.spike2former.blocks import ESC, Synapse


class FPNHead(nn.Module):
    """Maps at strides 2, 4, 8, 16 -> class logits [B, nc, H/s, W/s], the mean over the T steps.

    Coarse maps lend context to fine ones, nearest px, down to stride `stride`, 4 or 2. Every
    convolution reads spikes.
    """

    def __init__(
        self,
        neuron: NeuronFactory,
        in_channels: Sequence[int],
        channels: int,
        num_classes: int,
        stride: int = 4,
    ) -> None:
        super().__init__()
        self.finest = {2: 0, 4: 1}[stride]
        used = in_channels[self.finest :]
        self.laterals = nn.ModuleList(Synapse(neuron, c, channels) for c in used)
        self.mixers = nn.ModuleList(ESC(neuron, channels, 3) for _ in used)
        self.upsample = Upsample()
        self.classify = Synapse(neuron, channels, num_classes, bias=True, norm=False)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        y: Tensor | None = None
        levels = list(zip(maps[self.finest :], self.laterals, self.mixers, strict=True))
        for x, lateral, mixer in reversed(levels):
            x = lateral(x) if y is None else lateral(x) + self.upsample(y)
            y = x + mixer(x)
        return [self.classify(y).mean(0)]


def decode_pixels(
    maps: list[Tensor], size_hw: tuple[int, int] | torch.Size
) -> Float[Tensor, "B nc H W"]:
    """Scores per class and px: softmax of the logits, made larger first as the loss does."""
    (logits,) = maps
    return F.interpolate(logits, size_hw, mode="bilinear", align_corners=False).softmax(1)
