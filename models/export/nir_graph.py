"""Graph -> NIR 1.0, what it can say and no more; `nir` is the extra `[nir]`.

NIR's neurons are differential equations; one step of forward Euler with dt = 1 of
`tau dv/dt = -v + R I` is ours: tau = 1 / (1 - decay), R = tau * input_scale.
"""

from typing import Any

import numpy as np

from models.export.graph import Graph, Layer
from models.export.nodes import extra

INSTEAD = "expected a network that NIR can say: use --format onnx or golden"
#: What NIR 1.0 has no node for.
MISSING = {
    "max_pool": "NIR 1.0 has no max pool",
    "upsample": "NIR 1.0 has no upsampling",
    "concat": "NIR 1.0 cannot concatenate channels",
    "repeat": "NIR 1.0 cannot show a step twice",
    "relu": "NIR 1.0 has no ReLU",
    "leaky_silu": "NIR 1.0 has no SiLU",
}


def refuse(graph: Graph) -> None:
    """ValueError, with the reason, for the first layer that NIR 1.0 cannot say."""
    for layer in graph.layers:
        reason = MISSING.get(layer.kind)
        if layer.kind == "neuron":
            if layer.settings["max_spikes"] > 1:
                reason = f"spikes are counts up to {layer.settings['max_spikes']}, NIR's are 0 or 1"
            elif layer.settings["reset"] != "hard":
                reason = "the reset subtracts the spike, NIR 1.0's sets a value"
        if reason:
            raise ValueError(f"cannot write layer {layer.name!r} as NIR: {reason}; {INSTEAD}")
    if graph.time["bins_together"] > 1:
        raise ValueError(f"cannot write NIR: bins enter a step together; {INSTEAD}")


def nir_graph(graph: Graph) -> Any:
    """The nir.NIRGraph of a network whose neurons are binary, with a hard reset.

    An addition is two edges into one node. Outputs are the maps of every step; their mean over the
    steps, which NIR cannot say, is left to the reader, as `metadata` does say. Raises ValueError
    for everything else, and without `nir`.
    """
    refuse(graph)
    nir = extra("nir", "nir")
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    for layer in graph.layers:
        if layer.kind == "mean":
            continue
        name = _called(layer.name)
        nodes[name] = _node(nir, graph, layer)
        edges += [(_called(source), name) for source in layer.inputs]
    for number, output in enumerate(graph.outputs):
        (source,) = graph[output].inputs
        nodes[f"map{number}"] = nir.Output({"output": np.array(graph[output].shape)})
        edges.append((_called(source), f"map{number}"))
    about = {"dt": 1.0, "steps": graph.time["bins"], "maps": "mean over the steps of each output"}
    return nir.NIRGraph(nodes, edges, metadata=about)


def _called(name: str) -> str:
    """NIR files are HDF5, where a dot or a slash may mean a level."""
    return name.replace(".", "_")


def _node(nir: Any, graph: Graph, layer: Layer) -> Any:
    settings = layer.settings
    if layer.kind == "input":
        return nir.Input({"input": np.array(layer.shape)})
    if layer.kind == "conv":
        weight, bias = graph.weights[layer.name]
        sides = [tuple(settings[name]) for name in ("stride", "padding", "dilation")]
        size_hw = graph[layer.inputs[0]].shape[1:]
        return nir.Conv2d(size_hw, weight, *sides, settings["groups"], bias)
    if layer.kind == "add":
        return nir.Scale(np.ones(layer.shape))
    tau = 1 / (1 - settings["decay"]) if settings["decay"] < 1 else None
    full = [np.full(layer.shape, value) for value in (settings["threshold"], 0.0)]
    if tau is None:
        return nir.IF(np.full(layer.shape, settings["input_scale"]), *full)
    r = np.full(layer.shape, tau * settings["input_scale"])
    return nir.LIF(np.full(layer.shape, tau), r, np.zeros(layer.shape), *full)
