"""What backbone, pixel decoder and decoder of Spike2Former share.

Blocks map x [T, B, C, H, W] to [T, B, C', H', W'] and hand on membranes, real values. Tokens are
maps too, [T, B, C, N, 1], so that every layer is a convolution. Batch norms: eps 1e-5.
Source: Lei et al., "Spike2Former", AAAI 2025, arXiv:2412.14587.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks import BatchNorm, NeuronFactory, per_step
from models.neuron import Neuron

#: How three places of the published network read their axes: "aligned" as its text means them,
#: "published" as its code does, which reshapes where it should permute.
Axes = Literal["aligned", "published"]
#: stage, x -> stage(x); a network may compute it a second time for its gradients.
Run = Callable[[nn.Module, Tensor], Tensor]


def at_once(stage: nn.Module, x: Tensor) -> Tensor:
    return stage(x)


class RealConv(nn.Module):
    """Convolution (same padding) -> batch norm, or nothing, of real values."""

    folds = (("conv", "bn"),)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=bias
        )
        self.bn = BatchNorm(out_channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return per_step(x, self.conv, self.bn)


class Synapse(RealConv):
    """Neuron -> convolution -> batch norm, or nothing."""

    def __init__(
        self,
        neuron: NeuronFactory,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, groups, bias, norm)
        self.neuron = neuron()

    def forward(self, x: Tensor) -> Tensor:
        return per_step(self.neuron(x), self.conv, self.bn)


class ESC(nn.Module):
    """Efficient spike convolution: 1x1 to twice the channels, depthwise, 1x1, each on spikes."""

    def __init__(self, neuron: NeuronFactory, channels: int, kernel: int) -> None:
        super().__init__()
        hidden = 2 * channels
        self.expand = Synapse(neuron, channels, hidden)
        self.depthwise = Synapse(neuron, hidden, hidden, kernel, groups=hidden)
        self.project = Synapse(neuron, hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.depthwise(self.expand(x)))


class MLP(nn.Module):
    """Two 1x1 convolutions with bias, `hidden` channels between them."""

    def __init__(self, neuron: NeuronFactory, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = Synapse(neuron, channels, hidden, bias=True)
        self.project = Synapse(neuron, hidden, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.expand(x))


def begin_lively(*norms: nn.Module) -> None:
    """Batch norms before factors start at 2: at 1, products of few tokens would stay silent.

    The batch norms behind a silent layer divide by sqrt(eps), and gradients overflow.
    """
    for norm in norms:
        nn.init.constant_(norm.get_parameter("weight"), 2.0)


def factor_neuron(neuron: NeuronFactory) -> nn.Module:
    """For what is multiplied with other outputs; in an ANN twin within [0, 1], as S / D is.

    Products of three unbounded maps, layer after layer, would overflow.
    """
    node = neuron()
    return node if isinstance(node, Neuron) else nn.Hardtanh(0.0, 1.0)


def unit(neuron: nn.Module) -> float:
    """Makes S / D of what a neuron hands on, S / D already or S: attention is of shares of D."""
    if not isinstance(neuron, Neuron) or not neuron.is_spiking:
        return 1.0
    return 1 / round(neuron.levels * neuron.spike_value, 12)


def with_heads(x: Tensor, heads: int) -> Tensor:
    """[T, B, heads * d, H, W] -> tokens [T, B, heads, H * W, d]; channel c is of head c // d."""
    return x.flatten(3).unflatten(2, (heads, -1)).transpose(-1, -2)


def heads_joined(tokens: Tensor, size_hw: torch.Size | tuple[int, int]) -> Tensor:
    """The way back: [T, B, heads, H * W, d] -> [T, B, heads * d, H, W]."""
    return tokens.transpose(-1, -2).flatten(2, 3).unflatten(3, size_hw)


def transposed_back(x: Tensor) -> Tensor:
    """A map [T, B, C, H, W] whose values are read as if it were [T, B, H, W, C]: same shape.

    A reshape where a permutation is meant, as published.
    """
    T, B, C, H, W = x.shape
    return x.reshape(T, B, H, W, C).permute(0, 1, 4, 2, 3)


def enlarged(x: Tensor, size_hw: torch.Size | tuple[int, int]) -> Tensor:
    """Bilinear, in every step of x [T, B, C, H, W] or level of [L, B, Q, H, W]."""
    larger = F.interpolate(x.flatten(0, 1), size_hw, mode="bilinear", align_corners=False)
    return larger.unflatten(0, x.shape[:2])


def scaled(x: Tensor, scale: Tensor | None) -> Tensor:
    """Maps [T, B, C, H, W] times [C] or [1]; as they are where the scale was folded away."""
    return x if scale is None else scale[:, None, None] * x


def fold_scale(conv: nn.Conv2d, scale: Tensor | None) -> None:
    """Let a folded convolution do what `scaled` does to its result."""
    if scale is not None and conv.bias is not None:
        conv.weight.mul_(scale[:, None, None, None])
        conv.bias.mul_(scale)


def frozen(module: nn.Module, *names: str) -> None:
    """Parameters become constants, that are added or multiplied but no layer."""
    for name in names:
        value = getattr(module, name)
        if isinstance(value, nn.Parameter):
            delattr(module, name)
            module.register_buffer(name, value.detach())
