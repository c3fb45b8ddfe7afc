"""A folder that hardware can be built from: graph, weights, what every neuron did, and an
interpreter in numpy that gives it all again."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.detector import DetectorNetwork
from models.export import interpreter
from models.export.exact import LARGEST_EVENT, accumulator_bits, on_grid
from models.export.graph import Graph
from models.export.quantise import Int8, Scales, fixed_point, integer_layers, quantise, rounded_twin
from models.export.trace import trace
from models.neuron import ILIFNode

FORMAT = "spikeyolo-gen1 golden, version 1"


@torch.no_grad()
def watched(network: DetectorNetwork, x: Tensor) -> dict[str, Any]:
    """x, spikes and membranes of every neuron in every step, raw maps, boxes and scores."""
    found = {"x": x.numpy()}
    handles = []

    def fired(name: str, node: ILIFNode, inputs: tuple[Tensor], spikes: Tensor) -> None:
        alone, membranes = copy.copy(node), []
        alone._memories, alone.keep_state = {"v": None}, True
        for step in inputs[0]:
            alone.multi_step_forward(step[None])
            assert alone.v is not None
            membranes.append(alone.v.clone())
        found[f"spikes/{name}"] = spikes.to(torch.uint8).numpy()
        found[f"membranes/{name}"] = torch.stack(membranes).numpy()

    for name, module in network.named_modules():
        if isinstance(module, ILIFNode):
            handles.append(module.register_forward_hook(partial(fired, name)))
    try:
        maps = network(x.double())
    finally:
        for handle in handles:
            handle.remove()
    boxes, scores = network.decode(maps)
    found |= {f"map/{i}": raw.numpy() for i, raw in enumerate(maps)}
    return found | {"boxes": boxes.numpy(), "scores": scores.numpy()}


def with_weights(deployed: DetectorNetwork, graph: Graph) -> DetectorNetwork:
    """A copy in float64 whose convolutions have the graph's weights."""
    twin = copy.deepcopy(deployed).double()
    for name, (weight, bias) in graph.weights.items():
        conv = twin.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        conv.weight.data = torch.from_numpy(weight)
        if conv.bias is not None:
            conv.bias.data = torch.from_numpy(bias)
    return twin


def _described(graph: Graph, rounded: dict[str, Int8]) -> list[dict[str, Any]]:
    layers = []
    for layer in graph.layers:
        row = asdict(layer)
        if layer.kind == "conv":
            row["reads"] = graph.reading(layer)
        if layer.name in rounded:
            source = graph[layer.inputs[0]]
            largest = source.settings.get("max_spikes", LARGEST_EVENT)
            row["accumulator_bits"] = accumulator_bits(layer, rounded[layer.name].weight, largest)
        layers.append(row)
    return layers


def _arrays(
    graph: Graph, rounded: dict[str, Int8], integer: dict[str, int] | None
) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    for name, weights in graph.weights.items():
        arrays |= {f"{name}.weight": weights.weight, f"{name}.bias": weights.bias}
    for name, layer in rounded.items():
        arrays |= {f"{name}.int8": layer.weight, f"{name}.scale": layer.scale}
        arrays[f"{name}.bias_int8"] = layer.bias
        if integer:
            arrays[f"{name}.shift"] = -np.log2(layer.scale).astype(np.int64)
            fixed = np.round(layer.bias * 2.0 ** integer["bias_bits"])
            arrays[f"{name}.bias_fixed"] = fixed.astype(np.int64)
    return arrays


def write_golden(
    deployed: DetectorNetwork,
    windows: np.ndarray,
    folder: Path,
    scales: Scales = "power-of-two",
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the folder; returns what graph.json says.

    windows: uint8 [n, T, C, H, W], one golden file each and arithmetic; about: where the network
    and the windows come from. Float weights are rounded to multiples of 2**-32 or a little more
    where that makes every sum exact (`exact`), so that any engine can give the same bits.
    Raises ValueError for a trained network and one with an operation that has no rule.
    """
    graph, exact = on_grid(trace(deployed, windows.shape[-2:]))
    network = with_weights(deployed, graph)
    spiking = any(graph.reading(graph[name]) == "spikes" for name in integer_layers(graph))
    rounded = quantise(graph, scales) if spiking else {}
    integer = fixed_point(graph, rounded) if rounded else None
    made: dict[str, Any] = {
        "format": FORMAT,
        "about": about or {},
        "family": graph.family,
        "window": list(windows.shape[1:]),
        "time": graph.time,
        "exact": {"float": exact, "int8": integer is not None},
        "integer": integer,
        "layers": _described(graph, rounded),
        "outputs": graph.outputs,
        "decode": graph.decode,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "golden").mkdir(exist_ok=True)
    np.savez(folder / "weights.npz", **_arrays(graph, rounded, integer))
    shutil.copyfile(interpreter.__file__, folder / "run.py")
    forms: dict[str, Callable[[], DetectorNetwork]] = {"float": lambda: network}
    if rounded:
        forms["int8"] = lambda: rounded_twin(network, rounded)
    for arithmetic, form in forms.items():
        twin = form()
        for number, window in enumerate(windows):
            figures = watched(twin, torch.from_numpy(window)[:, None])
            file = folder / "golden" / f"window{number}_{arithmetic}.npz"
            np.savez_compressed(file, **figures)
    text = json.dumps(made, indent=1) + "\n"  # last: a folder without it is not whole
    (folder / "graph.json").write_text(text)
    return made
