"""Weights as int8, one scale per output channel: counts and events are integers as they are."""

import copy
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models.detector import DetectorNetwork
from models.export.exact import membrane_bits
from models.export.graph import Graph
from models.export.trace import trace

Scales = Literal["float", "power-of-two"]
LARGEST = 127


class Int8(NamedTuple):
    """weight int8 [out, in / groups, k, k] times scale [out], and bias [out], float64."""

    weight: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


def integer_layers(graph: Graph) -> list[str]:
    """Convolutions that read spikes or events; the others multiply real values."""
    layers = [layer for layer in graph.layers if layer.kind == "conv"]
    return [layer.name for layer in layers if graph.reading(layer) != "real"]


def quantise(graph: Graph, scales: Scales = "float") -> dict[str, Int8]:
    """Round the weights of every convolution that reads spikes or events; by layer.

    A channel's largest weight becomes 127, or, with scales that are powers of two, 64 to 127;
    biases then are multiples of the smallest scale. Raises ValueError where no layer reads any.
    """
    names = integer_layers(graph)
    if not any(graph.reading(graph[name]) == "spikes" for name in names):
        found = "no layer of the network reads spikes"
        raise ValueError(f"{found}, expected integer counts: its activations would be rounded, too")
    rounded = {}
    for name in names:
        weight, bias = graph.weights[name]
        largest = np.abs(weight).max((1, 2, 3))
        scale = np.where(largest > 0, largest, 1.0) / LARGEST
        if scales == "power-of-two":
            scale = 2.0 ** np.ceil(np.log2(scale))
        whole = np.round(weight / scale[:, None, None, None])
        rounded[name] = Int8(whole.astype(np.int8), scale, bias)
    if scales == "power-of-two":
        unit = min(float(layer.scale.min()) for layer in rounded.values())
        rounded = {n: r._replace(bias=np.round(r.bias / unit) * unit) for n, r in rounded.items()}
    return rounded


def fixed_point(graph: Graph, rounded: dict[str, Int8]) -> dict[str, int] | None:
    """Bits below the point of biases and of membranes, if the whole network can be integers."""
    extra = membrane_bits(graph)
    scales = np.concatenate([layer.scale for layer in rounded.values()])
    powers = np.log2(scales)
    all_layers = len(rounded) == len(graph.weights)
    if extra is None or not all_layers or not (powers == np.round(powers)).all():
        return None
    bits = int(-powers.min())
    return {"bias_bits": bits, "fraction_bits": bits + extra}


def rounded_network(deployed: DetectorNetwork, size_hw: tuple[int, int]) -> DetectorNetwork:
    """The deployed network with the weights that int8 holds, in its own dtype: to score and price.

    size_hw: of its input in px. Raises ValueError for one with layers that multiply real values,
    attention among them: they would stay in float32, and have no price in int8.
    """
    graph = trace(deployed, size_hw)
    rounded = quantise(graph)
    left = [name for name in graph.weights if name not in rounded]
    if left:
        found = f"layer {left[0]!r} multiplies real values, which int8 weights leave in float32"
        raise ValueError(f"{found}, expected a network whose layers read spikes")
    twin = copy.deepcopy(deployed)
    for name, layer in rounded.items():
        weight = torch.from_numpy(layer.weight * layer.scale[:, None, None, None])
        twin.get_parameter(f"{name}.weight").data.copy_(weight)
    return twin


class RoundedConv(nn.Module):
    """Integer weights on integer counts x [N, C, H, W], then scale and bias, as integers would."""

    def __init__(self, conv: nn.Conv2d, rounded: Int8) -> None:
        super().__init__()
        self.conv = copy.deepcopy(conv)
        dtype = conv.weight.dtype
        self.conv.weight.data = torch.from_numpy(rounded.weight).to(dtype)
        self.conv.bias = None
        self.register_buffer("scale", torch.from_numpy(rounded.scale).to(dtype)[:, None, None])
        self.register_buffer("bias", torch.from_numpy(rounded.bias).to(dtype)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.scale + self.bias


def rounded_twin(deployed: DetectorNetwork, rounded: dict[str, Int8]) -> DetectorNetwork:
    """The deployed network with these weights, in torch and its own dtype: the slow truth."""
    twin = copy.deepcopy(deployed)
    for name, layer in rounded.items():
        parent, _, child = name.rpartition(".")
        conv = twin.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        setattr(twin.get_submodule(parent), child, RoundedConv(conv, layer))
    return twin
