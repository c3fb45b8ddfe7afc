"""Graph -> ONNX in float32, unrolled: every layer once in every time step."""

from collections.abc import Callable
from typing import Any

import numpy as np

from models.export.boxes import decoded
from models.export.graph import Graph, Layer
from models.export.nodes import OPSET, Nodes

BATCH = "batch"


def at(name: str, step: int) -> str:
    """A layer's output in a time step, as it is called in the file."""
    return f"{name}@{step}"


class Writer:
    """Maps are [B, C, H, W], one for every time step; those of step 1 are called "LAYER@1".

    With `stream`, membranes are inputs "state/LAYER" and outputs "next/LAYER" [B, C, H, W].
    """

    def __init__(self, graph: Graph, stream: bool = False, opset: int = OPSET) -> None:
        self.graph, self.stream, self.nodes = graph, stream, Nodes(opset)
        self.states: list[tuple[str, tuple[int, ...]]] = []

    def written(self, decode: bool = False, about: dict[str, str] | None = None) -> Any:
        """The checked model: "x" [T, B, C, H, W] -> "map0", ... [B, C, H, W], and if asked for
        "boxes" and "scores"; raises ValueError for a kind of layer without a rule."""
        graph = self.graph
        for layer in graph.layers:
            whole = getattr(self, f"write_{layer.kind}", None)  # of all steps
            each: Callable[..., None] | None = getattr(self, f"step_{layer.kind}", None)
            if whole is None and each is None:
                raise ValueError(f"cannot write layer {layer.name!r}: no rule for {layer.kind!r}")
            if whole is not None:
                whole(layer)
                continue
            for t in range(layer.steps):
                assert each is not None
                each(layer, at(layer.name, t), *(at(name, t) for name in layer.inputs))
        maps = [f"map{i}" for i in range(len(graph.outputs))]
        for name, output in zip(graph.outputs, maps, strict=True):
            self.nodes.add("Identity", self.plain(at(name, 0)), name=output)
        if decode:
            decoded(self.nodes, graph, maps)
        return self.nodes.model(*self._values(maps, decode), about or {})

    def _values(self, maps: list[str], decode: bool) -> tuple[list[Any], list[Any]]:
        graph, value = self.graph, self.nodes.value
        channels, height, width = graph.layers[0].shape
        inputs = [value("x", (graph.time["bins"], BATCH, channels, height, width))]
        shapes = [graph[name].shape for name in graph.outputs]
        outputs = [value(m, (BATCH, *shape)) for m, shape in zip(maps, shapes, strict=True)]
        if decode:
            outputs += [value("boxes", (BATCH, "anchors", 4))]
            outputs += [value("scores", (BATCH, "anchors", graph.decode["num_classes"]))]
        inputs += [value(f"state/{name}", (BATCH, *shape)) for name, shape in self.states]
        outputs += [value(f"next/{name}", (BATCH, *shape)) for name, shape in self.states]
        return inputs, outputs

    def plain(self, name: str) -> str:
        """A value as [B, C, H, W]."""
        return name

    def dims(self, layer: Layer) -> tuple[int, ...]:
        """Of one map as it is laid out."""
        return layer.shape

    def write_input(self, layer: Layer) -> None:
        """[T, B, C, H, W] -> [B, bins together * C, H, W] a step."""
        nodes, together = self.nodes, self.graph.time["bins_together"]
        axis = nodes.whole(0)
        bins = [nodes.add("Squeeze", bin_, axis) for bin_ in nodes.split("x", layer.steps)]
        for t in range(layer.steps // together):
            nodes.joined(bins[t * together : (t + 1) * together], axis=1, name=at(layer.name, t))

    def step_conv(self, layer: Layer, y: str, x: str) -> None:
        self.convolve(layer, y, x, *self.graph.weights[layer.name])

    def convolve(self, layer: Layer, y: str, x: str, weight: np.ndarray, bias: np.ndarray) -> None:
        """A float convolution of [B, C, H, W]."""
        settings, constant = layer.settings, self.nodes.constant
        self.nodes.add(
            "Conv",
            x,
            constant(weight),
            constant(bias),
            name=y,
            kernel_shape=settings["kernel"],
            strides=settings["stride"],
            pads=settings["padding"] * 2,
            dilations=settings["dilation"],
            group=settings["groups"],
        )

    def write_neuron(self, layer: Layer) -> None:
        settings, nodes, v = layer.settings, self.nodes, self.state(layer)
        for t in range(layer.steps):
            u = at(layer.inputs[0], t)
            if settings["input_scale"] != 1:
                u = nodes.add("Mul", u, nodes.constant(settings["input_scale"]))
            if v:
                u = nodes.add("Add", u, nodes.add("Mul", v, nodes.constant(settings["decay"])))
            self.counts(at(layer.name, t), u, settings["max_spikes"])
            if t + 1 < layer.steps or self.stream:
                v = self.after(u, self.real(at(layer.name, t)), settings["reset"])
        self.next_state(layer, v)

    def counts(self, y: str, u: str, most: int) -> None:
        """round(clip(u, 0, D)), half to even."""
        constant = self.nodes.constant
        self.nodes.add("Round", self.nodes.add("Clip", u, constant(0), constant(most)), name=y)

    def real(self, counts: str) -> str:
        """Counts as float32."""
        return counts

    def after(self, u: str, counts: str, reset: str) -> str:
        """The membrane after the reset."""
        if reset == "soft":
            return self.nodes.add("Sub", u, counts)
        silent = self.nodes.add("Sub", self.nodes.constant(1), counts)
        return self.nodes.add("Mul", u, silent)

    def state(self, layer: Layer) -> str:
        """The name of a membrane that comes in; "" at rest."""
        if not self.stream:
            return ""
        self.states.append((layer.name, self.dims(layer)))
        return f"state/{layer.name}"

    def next_state(self, layer: Layer, v: str) -> None:
        if self.stream:
            self.nodes.add("Identity", v, name=f"next/{layer.name}")

    def write_leaky_silu(self, layer: Layer) -> None:
        settings, nodes, v = layer.settings, self.nodes, self.state(layer)
        for t in range(layer.steps):
            u = at(layer.inputs[0], t)
            if v:
                y = v if settings["in_place"] else self.silu(v)
                kept = nodes.add("Mul", v, nodes.add("Sub", nodes.constant(1), y))
                u = nodes.add("Add", u, nodes.add("Mul", kept, nodes.constant(settings["decay"])))
            v = self.silu(u, at(layer.name, t))
            v = v if settings["in_place"] else u
        self.next_state(layer, v)

    def silu(self, x: str, y: str = "") -> str:
        return self.nodes.add("Mul", x, self.nodes.add("Sigmoid", x), name=y)

    def step_relu(self, _layer: Layer, y: str, x: str) -> None:
        self.nodes.add("Relu", x, name=y)

    def step_add(self, _layer: Layer, y: str, a: str, b: str) -> None:
        self.nodes.add("Add", a, b, name=y)

    def step_concat(self, _layer: Layer, y: str, *maps: str) -> None:
        self.nodes.joined(maps, axis=1, name=y)

    def step_upsample(self, layer: Layer, y: str, x: str) -> None:
        channels, height, width = layer.shape
        nodes = self.nodes
        x = nodes.add("Reshape", x, nodes.whole(0, channels, height // 2, 1, width // 2, 1))
        x = nodes.add("Tile", x, nodes.whole(1, 1, 1, 2, 1, 2))
        nodes.add("Reshape", x, nodes.whole(0, channels, height, width), name=y)

    def step_max_pool(self, layer: Layer, y: str, x: str) -> None:
        settings = layer.settings
        self.nodes.add(
            "MaxPool",
            x,
            name=y,
            kernel_shape=settings["kernel"],
            strides=settings["stride"],
            pads=settings["padding"] * 2,
        )

    def write_repeat(self, layer: Layer) -> None:
        for t in range(layer.steps):
            source = at(layer.inputs[0], t // layer.settings["times"])
            self.nodes.add("Identity", source, name=at(layer.name, t))

    def write_mean(self, layer: Layer) -> None:
        steps = range(self.graph[layer.inputs[0]].steps)
        self.nodes.add("Mean", *(at(layer.inputs[0], t) for t in steps), name=at(layer.name, 0))
