"""A deployed network as a list of plain layers, from which every format is written."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

#: Largest denominator of a decay or scale that counts as a dyadic fraction.
LARGEST_DENOMINATOR = 2**16


class Weights(NamedTuple):
    """Of a convolution: weight [out, in / groups, k, k] and bias [out], float64."""

    weight: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class Layer:
    """One operation on [steps, B, C, H, W].

    Args:
        name: Of its module in the network, or made up; unique.
        kind: input, conv, neuron, leaky_silu, relu, add, concat (of channels), upsample (nearest),
            max_pool, repeat (of every step) or mean (over all steps).
        inputs: Names of the layers it reads.
        steps: Time steps of its output; 1 after the mean.
        shape: Channels, height and width of its output.
        settings: What its kind needs beside.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    steps: int
    shape: tuple[int, int, int]
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """`layers` in the order they run, `weights` by layer, names of the raw maps, and `decode`:
    what boxes they mean. `time`: bins of a window [T, B, C, H, W] and how many enter one step."""

    layers: tuple[Layer, ...]
    weights: dict[str, Weights]
    outputs: tuple[str, ...]
    time: dict[str, int]
    decode: dict[str, Any]
    family: str

    def __getitem__(self, name: str) -> Layer:
        return next(layer for layer in self.layers if layer.name == name)

    @property
    def neurons(self) -> tuple[Layer, ...]:
        """Those that keep a state."""
        return tuple(layer for layer in self.layers if layer.kind in ("neuron", "leaky_silu"))

    def reading(self, layer: Layer) -> str:
        """What a layer reads: "spikes", "events" or "real" values."""
        kinds = {self._values(name) for name in layer.inputs}
        return kinds.pop() if len(kinds) == 1 else "real"

    def _values(self, name: str) -> str:
        layer = self[name]
        if layer.kind == "neuron":
            return "spikes"
        if layer.kind == "input":
            return str(layer.settings["values"])
        passes = layer.kind in ("upsample", "max_pool", "concat", "repeat")
        return self.reading(layer) if passes else "real"

    def with_weights(self, weights: dict[str, Weights]) -> "Graph":
        return replace(self, weights=weights)


def dyadic(value: float) -> tuple[int, int] | None:
    """(p, q) of value = p / 2**q, or None if that takes a denominator above 2**16."""
    p, denominator = float(value).as_integer_ratio()
    return (p, denominator.bit_length() - 1) if denominator <= LARGEST_DENOMINATOR else None
