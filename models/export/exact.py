"""Numbers of which every sum is exact, so that any order of summation gives the same bits."""

from dataclasses import replace
from math import ceil, log2

import numpy as np

from models.export.graph import Graph, Layer, Weights

#: Bits that a float64 holds, one spared.
BITS = 52
#: No finer than this; float32 weights of 2**-8 and more keep all their bits.
FINEST = 32
#: Largest count of events in a pixel and bin: they are bytes.
LARGEST_EVENT = 255


def magnitudes(graph: Graph) -> dict[str, float]:
    """A bound of what each layer hands on, by name, whatever the events."""
    bounds: dict[str, float] = {}
    for layer in graph.layers:
        read = [bounds[name] for name in layer.inputs]
        if layer.kind == "input":
            bound = float(LARGEST_EVENT)
        elif layer.kind == "conv":
            weight, bias = graph.weights[layer.name]
            bound = float((np.abs(weight).sum((1, 2, 3)) * read[0] + np.abs(bias)).max())
        elif layer.kind == "neuron":
            bound = float(layer.settings["max_spikes"])
        else:
            bound = sum(read) if layer.kind == "add" else max(read)
        bounds[layer.name] = bound
    return bounds


def membrane_bits(graph: Graph) -> int | None:
    """Bits below those of the weights that membranes of one window need; None if no number does."""
    needed = [0]
    for layer in graph.neurons:
        if layer.kind != "neuron":
            return None
        scale, decay = (layer.settings[f"{name}_dyadic"] for name in ("input_scale", "decay"))
        if scale is None or decay is None:
            return None
        needed.append(scale[1] + decay[1] * (layer.steps - 1))
    return max(needed)


def grid_bits(graph: Graph) -> int | None:
    """The finest b at which sums of weights that are multiples of 2**-b are exact in float64.

    None where no b does: layers that multiply real values, decays that are no dyadic fractions.
    """
    extra = membrane_bits(graph)
    convolutions = [layer for layer in graph.layers if layer.kind == "conv"]
    if extra is None or any(graph.reading(layer) == "real" for layer in convolutions):
        return None
    steps = max(layer.steps for layer in graph.layers)
    if steps & (steps - 1):  # the mean over them is no dyadic fraction
        return None
    largest = max(magnitudes(graph).values())
    return min(FINEST, BITS - ceil(log2(2 * largest * steps)) - extra)


def on_grid(graph: Graph) -> tuple[Graph, bool]:
    """The graph with weights rounded so that all sums are exact, if that can be, and whether."""
    bits = grid_bits(graph)
    if bits is None:
        return graph, False
    rounded = {
        name: Weights(*(np.round(array * 2.0**bits) / 2.0**bits for array in weights))
        for name, weights in graph.weights.items()
    }
    return replace(graph, weights=rounded), True


def accumulator_bits(layer: Layer, weight_int8: np.ndarray, largest_input: int) -> int:
    """Of a signed integer that holds every sum of a convolution."""
    sums = np.abs(weight_int8.astype(np.int64)).sum((1, 2, 3)).max() * largest_input
    assert layer.kind == "conv"
    return int(sums).bit_length() + 1
