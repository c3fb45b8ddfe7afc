"""The backbones: convolutions at strides 2 to 8, linear attention at 16.

Source: Yao et al., Meta-SpikeFormer, "Spike-driven Transformer V2", ICLR 2024, arXiv:2404.03663,
as Spike2Former uses it; E-SpikeFormer, "Scaling Spike-driven Transformer with Efficient Spike
Firing Approximation Training", IEEE TPAMI 2025, arXiv:2411.16061.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from models.blocks import BatchNorm, NeuronFactory, RepConv, per_step
from models.spike2former.blocks import (
    ESC,
    MLP,
    RealConv,
    Run,
    Synapse,
    at_once,
    begin_lively,
    factor_neuron,
    heads_joined,
    unit,
    with_heads,
)
from models.spike2former.products import SpikeMatmul


class SepConv(nn.Module):
    """1x1 to twice the channels -> depthwise 7x7 -> 1x1; what the last one reads is real."""

    def __init__(self, neuron: NeuronFactory, channels: int) -> None:
        super().__init__()
        hidden = 2 * channels
        self.expand = Synapse(neuron, channels, hidden)
        self.depthwise = Synapse(neuron, hidden, hidden, 7, groups=hidden, norm=False)
        self.project = RealConv(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.depthwise(self.expand(x)))


class ConvBlock(nn.Module):
    """x + mixer, then x + two 3x3 convolutions, four times the channels between them."""

    def __init__(self, neuron: NeuronFactory, channels: int) -> None:
        super().__init__()
        self.mixer = self._mixer(neuron, channels)
        self.conv1 = Synapse(neuron, channels, 4 * channels, 3)
        self.conv2 = Synapse(neuron, 4 * channels, channels, 3)

    def _mixer(self, neuron: NeuronFactory, channels: int) -> nn.Module:
        return SepConv(neuron, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(x)
        return x + self.conv2(self.conv1(x))


class SpikingConvBlock(ConvBlock):
    """E-SpikeFormer's: every convolution of the mixer reads spikes."""

    def _mixer(self, neuron: NeuronFactory, channels: int) -> nn.Module:
        return ESC(neuron, channels, 7)


class LinearAttention(nn.Module):
    """Attention without softmax, linear in the number of px: q (k^T v) / sqrt(d), on spikes.

    Raises ValueError for heads that do not divide the channels.
    """

    folds = (("query", "query_bn"), ("key", "key_bn"), ("value", "value_bn"), ("out", "out_bn"))
    reads = (("query", "neuron"), ("key", "neuron"), ("value", "neuron"), ("out", "out_neuron"))
    multiplies = ("query_neuron", "key_neuron", "value_neuron")
    value_ratio, gain = 1, 1.0

    def __init__(self, neuron: NeuronFactory, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads is {heads}, expected a divisor of {channels} channels")
        self.heads, values = heads, self.value_ratio * channels
        self.scale: float = self.gain * (channels // heads) ** -0.5
        self.neuron = neuron()
        self.query, self.query_bn = self._synapse(channels, channels)
        self.key, self.key_bn = self._synapse(channels, channels)
        self.value, self.value_bn = self._synapse(channels, values)
        self.query_neuron = factor_neuron(neuron)
        self.key_neuron = factor_neuron(neuron)
        self.value_neuron = factor_neuron(neuron)
        begin_lively(self.query_bn, self.key_bn, self.value_bn)
        self.meet, self.select = SpikeMatmul("both"), SpikeMatmul("left")
        self.out_neuron = neuron()
        self.out, self.out_bn = self._synapse(values, channels)

    def _synapse(self, in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
        return RepConv(in_channels, out_channels, norm=BatchNorm), BatchNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.neuron(x)
        q = per_step(spikes, self.query, self.query_bn)
        k = per_step(spikes, self.key, self.key_bn)
        v = per_step(spikes, self.value, self.value_bn)
        fire = (self.query_neuron, self.key_neuron, self.value_neuron)
        q, k, v = (
            with_heads(neuron(x), self.heads) for neuron, x in zip(fire, (q, k, v), strict=True)
        )
        o = self.select(q, self.meet(k.transpose(-1, -2), v))
        o = o * (self.scale * math.prod(map(unit, fire)))
        spikes = self.out_neuron(heads_joined(o, x.shape[-2:]))
        return per_step(spikes, self.out, self.out_bn)


class WideAttention(LinearAttention):
    """E-SpikeFormer's: 1x1 convolutions, values four times as wide, twice the scale."""

    value_ratio, gain = 4, 2.0

    def _synapse(self, in_channels: int, out_channels: int) -> tuple[nn.Module, nn.Module]:
        return nn.Conv2d(in_channels, out_channels, 1, bias=False), BatchNorm(out_channels)


class TransformerBlock(nn.Module):
    """x + linear attention, then x + MLP."""

    def __init__(self, neuron: NeuronFactory, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = LinearAttention(neuron, channels, heads)
        self.mlp = MLP(neuron, channels, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class SpikingTransformerBlock(nn.Module):
    """E-SpikeFormer's: x + separable convolution, x + wide attention, x + MLP."""

    def __init__(self, neuron: NeuronFactory, channels: int, heads: int) -> None:
        super().__init__()
        self.mixer = ESC(neuron, channels, 3)
        self.attention = WideAttention(neuron, channels, heads)
        self.mlp = MLP(neuron, channels, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(x)
        x = x + self.attention(x)
        return x + self.mlp(x)


class MetaSpikeFormer(nn.Module):
    """What the stem made of x -> maps [T, B, C_i, H/s, W/s], s = 2, 4, 8, 16.

    `widths`: channels at strides 4, 8 and 16 (within, and handed on); half the first at stride 2.
    """

    conv_block: type[nn.Module] = ConvBlock
    transformer_block: type[nn.Module] = TransformerBlock

    def __init__(
        self, neuron: NeuronFactory, in_channels: int, widths: Sequence[int], heads: int
    ) -> None:
        super().__init__()
        c1, c2, c3, c4 = widths
        c0 = c1 // 2
        self.channels = (c0, c1, c2, c4)

        def attention(channels: int, blocks: int) -> nn.Sequential:
            return nn.Sequential(
                *(self.transformer_block(neuron, channels, heads) for _ in range(blocks))
            )

        self.stem = RealConv(in_channels, c0, 7, 2, bias=True)
        self.stage1 = nn.Sequential(self.conv_block(neuron, c0))
        self.down2 = Synapse(neuron, c0, c1, 3, 2, bias=True)
        self.stage2 = nn.Sequential(self.conv_block(neuron, c1))
        self.down3 = Synapse(neuron, c1, c2, 3, 2, bias=True)
        self.stage3 = nn.Sequential(*(self.conv_block(neuron, c2) for _ in range(2)))
        self.down4 = Synapse(neuron, c2, c3, 3, 2, bias=True)
        self.stage4 = attention(c3, 6)
        self.widen = Synapse(neuron, c3, c4, 3, bias=True)
        self.stage5 = attention(c4, 2)

    def forward(self, x: Tensor, run: Run = at_once) -> list[Tensor]:
        x1 = run(self.stage1, x)
        x2 = run(self.stage2, self.down2(x1))
        x3 = run(self.stage3, self.down3(x2))
        x4 = run(self.stage5, self.widen(run(self.stage4, self.down4(x3))))
        return [x1, x2, x3, x4]


class ESpikeFormer(MetaSpikeFormer):
    """A neuron before every convolution but the stem: nothing else multiplies."""

    conv_block = SpikingConvBlock
    transformer_block = SpikingTransformerBlock
