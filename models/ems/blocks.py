"""The building blocks of EMS-YOLO: residual branches of neuron, convolution, batch norm.

Every block maps x [T, B, C, H, W] to [T, B, C', H', W'] and adds a branch to a shortcut; what
they hand on are membrane potentials, real values. A stride is pooled away in the shortcut.
Source: Su et al., EMS-YOLO, ICCV 2023, arXiv:2307.11411.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.blocks import BatchNorm, NeuronFactory, SpikeConv, per_step


def batch_norm(channels: int, scale: float = 0.5) -> nn.BatchNorm2d:
    """eps 1e-5, momentum 0.1; `scale` is the weight it starts with."""
    norm = BatchNorm(channels)
    nn.init.constant_(norm.weight, scale)
    return norm


def closing_batch_norm(channels: int) -> nn.BatchNorm2d:
    """The last of a branch starts small, so that a new network is near its shortcuts."""
    return batch_norm(channels, 0.1)


class RealConv(nn.Module):
    """Convolution (same padding) -> batch norm -> `act`, of real values."""

    folds = (("conv", "bn"),)

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        act: Callable[[], nn.Module] = nn.Identity,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        self.bn = batch_norm(out_channels)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(per_step(x, self.conv, self.bn))


class Pool(nn.Module):
    """Maxima of stride x stride px."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(stride, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return per_step(x, self.pool)


class SpikingShortcut(nn.Module):
    """Pool -> neuron -> 1x1 -> batch norm: spikes into every convolution, as in EMS-Block1."""

    def __init__(
        self, neuron: NeuronFactory, in_channels: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        self.pool = Pool(stride)
        self.conv = SpikeConv(neuron, in_channels, out_channels, 1, norm=batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pool(x))


class RealShortcut(nn.Module):
    """Pool -> 1x1 -> batch norm, of real values: the convolution multiplies, as in MS-ResNet."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.pool = Pool(stride)
        self.conv = RealConv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pool(x))


class WideningShortcut(nn.Module):
    """x, pooled, after the channels it lacks, made by neuron -> 1x1 -> batch norm: EMS-Block2.

    Raises ValueError if it lacks none.
    """

    def __init__(
        self, neuron: NeuronFactory, in_channels: int, out_channels: int, stride: int
    ) -> None:
        super().__init__()
        if out_channels <= in_channels:
            found = f"EMS-Block2 gets {in_channels} channels and makes {out_channels}"
            raise ValueError(f"{found}, expected it to widen")
        self.conv = SpikeConv(neuron, in_channels, out_channels - in_channels, 1, norm=batch_norm)
        self.pool = Pool(stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(torch.cat([self.conv(x), x], dim=2))


class ResidualBlock(nn.Module):
    """shortcut(x) + two times neuron -> kxk -> batch norm, `hidden` channels between them."""

    def __init__(
        self,
        neuron: NeuronFactory,
        in_channels: int,
        hidden: int,
        out_channels: int,
        kernel: int,
        stride: int,
        shortcut: nn.Module,
    ) -> None:
        super().__init__()
        self.conv1 = SpikeConv(neuron, in_channels, hidden, kernel, stride, norm=batch_norm)
        self.conv2 = SpikeConv(neuron, hidden, out_channels, kernel, norm=closing_batch_norm)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x)) + self.shortcut(x)


def ems_block1(
    neuron: NeuronFactory,
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    hidden: int | None = None,
) -> ResidualBlock:
    """EMS-Block1, of full or `hidden` width; its shortcut spikes where the shape changes."""
    same = in_channels == out_channels and stride == 1
    shortcut = nn.Identity() if same else SpikingShortcut(neuron, in_channels, out_channels, stride)
    hidden = hidden or out_channels
    return ResidualBlock(neuron, in_channels, hidden, out_channels, kernel, stride, shortcut)


def ems_block2(
    neuron: NeuronFactory,
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    hidden: int | None = None,
) -> ResidualBlock:
    """EMS-Block2, of half or `hidden` width; its shortcut keeps x and adds the missing channels."""
    shortcut = WideningShortcut(neuron, in_channels, out_channels, stride)
    hidden = hidden or out_channels // 2
    return ResidualBlock(neuron, in_channels, hidden, out_channels, kernel, stride, shortcut)


def ms_block(
    neuron: NeuronFactory,
    in_channels: int,
    out_channels: int,
    kernel: int = 3,
    stride: int = 1,
    hidden: int | None = None,
) -> ResidualBlock:
    """MS-Block, of half or `hidden` width; a shortcut that changes shape multiplies real values."""
    same = in_channels == out_channels and stride == 1
    shortcut = nn.Identity() if same else RealShortcut(in_channels, out_channels, stride)
    hidden = hidden or out_channels // 2
    return ResidualBlock(neuron, in_channels, hidden, out_channels, kernel, stride, shortcut)
