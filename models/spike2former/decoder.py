"""The transformer decoder: queries that gather what belongs to one mask.

Source: Lei et al., Spike2Former, AAAI 2025; Cheng et al., Mask2Former, CVPR 2022.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.blocks import NeuronFactory
from models.spike2former.blocks import (
    MLP,
    Axes,
    Synapse,
    begin_lively,
    factor_neuron,
    frozen,
    heads_joined,
    unit,
    with_heads,
)
from models.spike2former.products import SpikeMatmul

SCALES = 3  # maps that layers read in turn: strides 16, 8, 4
TEMPERATURE = 10_000


def sine_positions(H: int, W: int, channels: int) -> Float[Tensor, "channels H W"]:
    """Sines of y, then of x, of half the channels each; float64, places scaled to 0..2 pi."""
    half = channels // 2
    index = torch.arange(half, dtype=torch.float64)
    period = TEMPERATURE ** (2 * (index // 2) / half)

    def waves(length: int) -> Tensor:
        place = torch.arange(1, length + 1, dtype=torch.float64) / (length + 1e-6) * 2 * math.pi
        angle = place / period[:, None]
        return torch.where((index % 2 == 0)[:, None], angle.sin(), angle.cos())

    y, x = waves(H)[:, :, None].expand(-1, H, W), waves(W)[:, None].expand(-1, H, W)
    return torch.cat((y, x))


class Attention(nn.Module):
    """(q k^T / sqrt(E)) v, without softmax: queries [T, B, E, Q, 1] gather values [T, B, E, ...].

    Raises ValueError for heads that do not divide the channels.
    """

    multiplies = ("query_neuron", "key_neuron", "value_neuron")

    def __init__(self, neuron: NeuronFactory, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"heads is {heads}, expected a divisor of {channels} channels")
        self.heads = heads
        self.scale: float = 1 / math.sqrt(channels)
        self.query = Synapse(neuron, channels, channels, bias=True)
        self.key = Synapse(neuron, channels, channels, bias=True)
        self.value = Synapse(neuron, channels, channels, bias=True)
        self.query_neuron = factor_neuron(neuron)
        self.key_neuron = factor_neuron(neuron)
        self.value_neuron = factor_neuron(neuron)
        begin_lively(self.query.bn, self.key.bn, self.value.bn)
        self.meet, self.select = SpikeMatmul("both"), SpikeMatmul("right")
        self.out = Synapse(neuron, channels, channels, bias=True)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        q = with_heads(self.query_neuron(self.query(query)), self.heads)
        k = with_heads(self.key_neuron(self.key(key)), self.heads)
        v = with_heads(self.value_neuron(self.value(value)), self.heads)
        fire = (self.query_neuron, self.key_neuron, self.value_neuron)
        o = self.select(self.meet(q, k.transpose(-1, -2)), v)
        o = o * (self.scale * math.prod(map(unit, fire)))
        return self.out(heads_joined(o, query.shape[-2:]))


class DecoderMLP(MLP):
    """An MLP of queries; the published network reads queries for features and back."""

    def __init__(
        self, neuron: NeuronFactory, channels: int, hidden: int, axes: Axes = "aligned"
    ) -> None:
        super().__init__(neuron, channels, hidden)
        self.axes = axes

    def forward(self, x: Float[Tensor, "T B E Q 1"]) -> Float[Tensor, "T B E Q 1"]:
        if self.axes == "aligned":
            return super().forward(x)
        T, B, E, Q, _ = x.shape
        y = super().forward(x.transpose(2, 3).reshape(T, B, E, Q, 1))
        return y.reshape(T, B, Q, E, 1).transpose(2, 3)


class DecoderLayer(nn.Module):
    """q + attention to a map, q + attention to one another, q + MLP."""

    def __init__(
        self, neuron: NeuronFactory, channels: int, hidden: int, heads: int, axes: Axes = "aligned"
    ) -> None:
        super().__init__()
        self.to_map = Attention(neuron, channels, heads)
        self.to_queries = Attention(neuron, channels, heads)
        self.mlp = DecoderMLP(neuron, channels, hidden, axes)

    def forward(self, q: Tensor, memory: Tensor, query_place: Tensor, map_place: Tensor) -> Tensor:
        q = q + self.to_map(q + query_place, memory + map_place, memory)
        placed = q + query_place
        q = q + self.to_queries(placed, placed, q)
        return q + self.mlp(q)


class Queries(nn.Module):
    """What is learnt of queries and maps before any input: [Q, E] twice and [3, E]."""

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(queries, channels))
        self.place = nn.Parameter(torch.randn(queries, channels))
        self.scale = nn.Parameter(torch.randn(SCALES, channels))

    def fold(self) -> None:
        """They are added to membranes: constants, no layer."""
        frozen(self, "start", "place", "scale")


class Decoder(nn.Module):
    """Maps at strides 16, 8, 4 [T, B, E, H/s, W/s] -> queries [T, B, E, Q, 1], before and after
    every layer."""

    def __init__(
        self,
        neuron: NeuronFactory,
        channels: int,
        layers: int,
        hidden: int,
        heads: int,
        axes: Axes = "aligned",
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(neuron, channels, hidden, heads, axes) for _ in range(layers)
        )
        for weight in self.parameters():
            if weight.dim() > 1:
                nn.init.xavier_uniform_(weight)

    def forward(self, memories: Sequence[Tensor], queries: Queries) -> list[Tensor]:
        T, B, E = memories[0].shape[:3]
        scales = queries.scale[:, :, None, None]
        maps = [m + scale for m, scale in zip(memories, scales, strict=True)]
        places = [sine_positions(m.shape[-2], m.shape[-1], E).to(m) for m in maps]
        start, query_place = queries.start.T[:, :, None], queries.place.T[:, :, None]
        states = [start.expand(T, B, *start.shape)]
        for i, layer in enumerate(self.layers):
            on = i % SCALES
            states.append(layer(states[-1], maps[on], query_place, places[on]))
        return states
