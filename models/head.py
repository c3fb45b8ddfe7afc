"""The detection head: per scale a box branch and a class branch, averaged over time."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.blocks import NeuronFactory, SpikeConv
from models.decode import REG_MAX, STRIDES


class Detect(nn.Module):
    """Feature maps [T, B, C_i, H/s, W/s] -> raw maps [B, 64 + nc, H/s, W/s], s = 8, 16, 32.

    The first 64 channels are 4 sides x 16 distance bins (left, top, right, bottom), the rest
    class logits; both the mean over the T steps.
    """

    def __init__(
        self, neuron: NeuronFactory, in_channels: tuple[int, ...], num_classes: int
    ) -> None:
        super().__init__()
        box_width = max(16, in_channels[0] // 4, 4 * REG_MAX)
        class_width = max(in_channels[0], min(num_classes, 100))

        def branch(channels: int, width: int, out_channels: int) -> nn.Sequential:
            return nn.Sequential(
                SpikeConv(neuron, channels, width, 3),
                SpikeConv(neuron, width, width, 3),
                SpikeConv(neuron, width, out_channels, 1, bias=True),
            )

        self.box = nn.ModuleList(branch(c, box_width, 4 * REG_MAX) for c in in_channels)
        self.cls = nn.ModuleList(branch(c, class_width, num_classes) for c in in_channels)
        self._init_biases(num_classes)

    def _init_biases(self, num_classes: int) -> None:
        """Start from about 5 objects in a 640 px image, spread evenly over classes and anchors."""
        for box, cls, stride in zip(self.box, self.cls, STRIDES, strict=True):
            class_bias = math.log(5 / num_classes / (640 / stride) ** 2)
            nn.init.constant_(box.get_parameter("2.conv.bias"), 1.0)
            nn.init.constant_(cls.get_parameter("2.conv.bias"), class_bias)

    def forward(self, features: list[Float[Tensor, "T B _ _ _"]]) -> list[Float[Tensor, "B _ _ _"]]:
        return [
            torch.cat([box(x), cls(x)], dim=2).mean(0)
            for x, box, cls in zip(features, self.box, self.cls, strict=True)
        ]
