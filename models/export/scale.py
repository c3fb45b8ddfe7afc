"""The neurons' input scale as part of the weights before them: a pass over every map less."""

from dataclasses import replace
from math import frexp

from models.export.graph import Graph, Weights


def absorbed(graph: Graph) -> Graph:
    """The same network with input_scale 1, where that moves no bit; else the graph as it is.

    A power of two, the same in every neuron, goes into the weights of all convolutions but the
    last, whose maps no neuron reads.
    """
    scales = {layer.settings.get("input_scale", 1.0) for layer in graph.neurons}
    if scales in (set(), {1.0}) or len(scales) != 1:
        return graph
    (scale,) = scales
    readers: dict[str, set[str]] = {}  # kinds that read a layer's values, however joined
    for layer in reversed(graph.layers):
        for name in layer.inputs:
            passed = {layer.kind} if layer.kind in ("neuron", "mean", "conv") else set()
            through = set() if passed else readers.get(layer.name, set())
            readers.setdefault(name, set()).update(passed | through)
    first = [layer for layer in graph.layers if layer.kind == "conv"]
    known = all(readers[layer.name] in ({"neuron"}, {"mean"}) for layer in first)
    if frexp(scale)[0] != 0.5 or not known or any(k.kind == "leaky_silu" for k in graph.neurons):
        return graph
    weights = dict(graph.weights)
    for name, (weight, bias) in graph.weights.items():
        if readers[name] == {"neuron"}:
            weights[name] = Weights(weight * scale, bias * scale)
    layers = tuple(
        replace(
            layer, settings={**layer.settings, "input_scale": 1.0, "input_scale_dyadic": (1, 0)}
        )
        if layer.kind == "neuron"
        else layer
        for layer in graph.layers
    )
    return replace(graph, layers=layers, weights=weights)
