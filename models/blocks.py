"""The building blocks of SpikeYOLO: neuron, convolution, batch norm, in that order.

Every block maps x [T, B, C, H, W] to [T, B, C', H', W']; convolutions and batch norms see the
T * B steps as one batch. `neuron` is a factory, so that one graph serves every neuron and the
ANN twin. How a block deploys it says itself: `folds` names its convolutions, in the order of the
neurons before them, each with the batch norm behind it; `affine()` is one that is made of parts.
Source: Luo et al., SpikeYOLO, ECCV 2024, arXiv:2407.20708.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

NeuronFactory = Callable[[], nn.Module]
Norm = Callable[[int], nn.BatchNorm2d]


def per_step(x: Float[Tensor, "T B _ _ _"], *modules: nn.Module) -> Float[Tensor, "T B _ _ _"]:
    """Run `modules`, which know [N, C, H, W], in turn on every step of x [T, B, C, H, W]."""
    steps, x = x.shape[:2], x.flatten(0, 1)
    for module in modules:
        x = module(x)
    return x.unflatten(0, steps)


class BatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d with the right gradient of a batch, a row or a column of one on a CPU.

    torch 2.13 mistakes x or the incoming gradient for contiguous if its strides are
    (C, 1, W*C, C) and the other is, or alike where H or W is 1, as tokens are; a gradient of
    strides (C*H*W, 1, W*C, C) suits every x.
    """

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        N, _C, H, W = x.shape
        if 1 in (N, H, W) and y.requires_grad:
            y.register_hook(lambda grad: grad.clone(memory_format=torch.channels_last))
        return y


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return BatchNorm(channels, eps=1e-3, momentum=0.03)


def scale_and_shift(bn: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Batch norm at inference as x * scale + shift, [C] each."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    return scale, bn.bias - bn.running_mean * scale


class Affine(NamedTuple):
    """A convolution's weight [out, in / groups, k, k] and bias [out]."""

    weight: Tensor
    bias: Tensor

    def then(self, bn: _BatchNorm) -> "Affine":
        """It and a batch norm at inference, as one."""
        scale, shift = scale_and_shift(bn)
        return Affine(self.weight * scale[:, None, None, None], self.bias * scale + shift)


def depthwise(channels: int, kernel: int, padding: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, padding=padding, groups=channels, bias=False)


def pointwise(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


class SpikeConv(nn.Module):
    """neuron -> convolution (same padding) -> batch norm; with `bias`, no batch norm."""

    folds = (("conv", "bn"),)

    def __init__(
        self,
        neuron: NeuronFactory,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        bias: bool = False,
        norm: Norm = batch_norm,
    ) -> None:
        super().__init__()
        self.neuron = neuron()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=bias)
        self.bn = nn.Identity() if bias else norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return per_step(self.neuron(x), self.conv, self.bn)


class Downsample(nn.Module):
    """[neuron] -> strided convolution with bias -> batch norm; `stem` reads events, unspiked."""

    folds = (("conv", "bn"),)

    def __init__(
        self, neuron: NeuronFactory, in_channels: int, out_channels: int, stem: bool = False
    ) -> None:
        super().__init__()
        kernel, stride, padding = (7, 4, 2) if stem else (3, 2, 1)
        self.neuron = nn.Identity() if stem else neuron()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
        self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return per_step(self.neuron(x), self.conv, self.bn)


class BNAndPad(nn.Module):
    """Batch norm, then a border of what batch norm makes of zero: x [N, C, H, W] -> H + 2, W + 2.

    The border uses the running statistics, in training too, and no gradient flows into it. So a
    convolution folded with it equals one that pads its own input with zeros.
    """

    def __init__(self, channels: int, norm: Norm = batch_norm) -> None:
        super().__init__()
        self.bn = norm(channels)

    def border(self) -> Tensor:
        """The value of each channel's border, [C]."""
        return scale_and_shift(self.bn)[1].detach()

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H+2 W+2"]:
        x = self.bn(x)
        N, C, H, W = x.shape
        padded = self.border().to(x.dtype).view(1, C, 1, 1).repeat(N, 1, H + 2, W + 2)
        padded[..., 1:-1, 1:-1] = x
        return padded


class RepConv(nn.Module):
    """1x1 -> padded batch norm -> depthwise 3x3 -> 1x1 -> batch norm, on [N, C, H, W].

    Without a nonlinearity inside, it equals one dense 3x3 convolution with bias at inference.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: Norm = batch_norm) -> None:
        super().__init__()
        self.pointwise_in = pointwise(in_channels, in_channels)
        self.bn_pad = BNAndPad(in_channels, norm)
        self.depthwise = depthwise(in_channels, 3, padding=0)
        self.pointwise_out = pointwise(in_channels, out_channels)
        self.bn = norm(out_channels)

    def forward(self, x: Float[Tensor, "N _ H W"]) -> Float[Tensor, "N _ H W"]:
        x = self.bn_pad(self.pointwise_in(x))
        return self.bn(self.pointwise_out(self.depthwise(x)))

    def affine(self) -> Affine:
        """At inference: one zero-padded dense 3x3."""
        scale, shift = scale_and_shift(self.bn_pad.bn)
        point_in = self.pointwise_in.weight[:, :, 0, 0] * scale[:, None]
        spatial = self.depthwise.weight[:, 0]
        point_out = self.pointwise_out.weight[:, :, 0, 0]
        weight = torch.einsum("oc,chw,ci->oihw", point_out, spatial, point_in)
        return Affine(weight, point_out @ (shift * spatial.sum((1, 2)))).then(self.bn)


class SepRepConv(nn.Module):
    """padded batch norm -> 1x1 -> depthwise 3x3, on [N, C, H, W]; one dense 3x3 at inference."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn_pad = BNAndPad(in_channels)
        self.pointwise = pointwise(in_channels, out_channels)
        self.depthwise = depthwise(out_channels, 3, padding=0)

    def forward(self, x: Float[Tensor, "N _ H W"]) -> Float[Tensor, "N _ H W"]:
        return self.depthwise(self.pointwise(self.bn_pad(x)))

    def affine(self) -> Affine:
        """At inference: one zero-padded dense 3x3."""
        scale, shift = scale_and_shift(self.bn_pad.bn)
        point = self.pointwise.weight[:, :, 0, 0]
        spatial = self.depthwise.weight[:, 0]
        weight = torch.einsum("ohw,oi->oihw", spatial, point * scale)
        return Affine(weight, (point @ shift) * spatial.sum((1, 2)))


class SepConv(nn.Module):
    """Token mixer: spikes widened by 1x1, mixed by depthwise 7x7, brought back by SepRepConv."""

    folds = (("pointwise", "bn1"), ("depthwise", "bn2"), ("rep", "bn3"))

    def __init__(self, neuron: NeuronFactory, channels: int, expansion: int = 2) -> None:
        super().__init__()
        hidden = channels * expansion
        self.neuron1 = neuron()
        self.pointwise = pointwise(channels, hidden)
        self.bn1 = batch_norm(hidden)
        self.neuron2 = neuron()
        self.depthwise = depthwise(hidden, 7, padding=3)
        self.bn2 = batch_norm(hidden)
        self.neuron3 = neuron()
        self.rep = SepRepConv(hidden, channels)
        self.bn3 = batch_norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = per_step(self.neuron1(x), self.pointwise, self.bn1)
        x = per_step(self.neuron2(x), self.depthwise, self.bn2)
        return per_step(self.neuron3(x), self.rep, self.bn3)


class AllConvBlock(nn.Module):
    """SNN-Block-1, for fine maps: x += SepConv(x); x += two standard 3x3, `ratio` times wider."""

    def __init__(self, neuron: NeuronFactory, channels: int, ratio: int) -> None:
        super().__init__()
        hidden = channels * ratio
        self.mixer = SepConv(neuron, channels)
        self.conv1 = SpikeConv(neuron, channels, hidden, 3)
        self.conv2 = SpikeConv(neuron, hidden, channels, 3)

    def forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B C H W"]:
        x = x + self.mixer(x)
        return x + self.conv2(self.conv1(x))


class ConvBlock(nn.Module):
    """SNN-Block-2, for coarse maps: as SNN-Block-1 with re-parameterised convolutions."""

    folds = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, neuron: NeuronFactory, channels: int, ratio: int) -> None:
        super().__init__()
        hidden = channels * ratio
        self.mixer = SepConv(neuron, channels)
        self.neuron1 = neuron()
        self.conv1 = RepConv(channels, hidden)
        self.bn1 = batch_norm(hidden)
        self.neuron2 = neuron()
        self.conv2 = RepConv(hidden, channels)
        self.bn2 = batch_norm(channels)

    def forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B C H W"]:
        x = x + self.mixer(x)
        hidden = per_step(self.neuron1(x), self.conv1, self.bn1)
        return x + per_step(self.neuron2(hidden), self.conv2, self.bn2)


class SPPF(nn.Module):
    """Spatial pyramid pooling: three chained 5x5 max pools of the real-valued map, concatenated."""

    def __init__(self, neuron: NeuronFactory, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = in_channels // 2
        self.conv1 = SpikeConv(neuron, in_channels, hidden, 1)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.conv2 = SpikeConv(neuron, hidden * 4, out_channels, 1)

    def forward(self, x: Float[Tensor, "T B _ H W"]) -> Float[Tensor, "T B _ H W"]:
        maps = [self.conv1(x)]
        for _ in range(3):
            maps.append(per_step(maps[-1], self.pool))
        return self.conv2(torch.cat(maps, dim=2))
