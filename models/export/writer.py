"""Graph -> ONNX in float32: T steps unrolled, every layer once for all of them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from models.export.boxes import decoded
from models.export.graph import Graph, Layer
from models.export.nodes import OPSET, Nodes

BATCH = "batch"


class Writer:
    """Maps are [steps * B, C, H, W]; a neuron splits them into steps and joins its spikes.

    Every layer's output is called as the layer. With `stream`, membranes are inputs "state/NAME"
    and outputs "next/NAME" [B, C, H, W].
    """

    spike_type: Any = np.float32

    def __init__(self, graph: Graph, stream: bool = False, opset: int = OPSET) -> None:
        self.graph, self.stream, self.nodes = graph, stream, Nodes(opset)
        self.states: list[tuple[str, tuple[int, ...]]] = []

    def written(self, decode: bool = False, about: dict[str, str] | None = None) -> Any:
        """The checked model: "x" [T, B, C, H, W] -> "map0", ... [B, C, H, W], and if asked for
        "boxes" and "scores"; raises ValueError for a kind of layer without a rule."""
        graph = self.graph
        for layer in graph.layers:
            rule: Callable[..., None] | None = getattr(self, f"write_{layer.kind}", None)
            if rule is None:
                raise ValueError(f"cannot write layer {layer.name!r}: no rule for {layer.kind!r}")
            rule(layer, *layer.inputs)
        maps = [f"map{i}" for i in range(len(graph.outputs))]
        for name, output in zip(graph.outputs, maps, strict=True):
            self.nodes.add("Identity", self.plain(name), name=output)
        if decode:
            decoded(self.nodes, graph, maps)
        channels, height, width = graph.layers[0].shape
        value = self.nodes.value
        inputs = [value("x", (graph.time["bins"], BATCH, channels, height, width))]
        shapes = [graph[name].shape for name in graph.outputs]
        outputs = [value(m, (BATCH, *shape)) for m, shape in zip(maps, shapes, strict=True)]
        if decode:
            outputs += [value("boxes", (BATCH, "anchors", 4))]
            outputs += [value("scores", (BATCH, "anchors", graph.decode["num_classes"]))]
        inputs += [value(f"state/{name}", (BATCH, *shape)) for name, shape in self.states]
        outputs += [value(f"next/{name}", (BATCH, *shape)) for name, shape in self.states]
        return self.nodes.model(inputs, outputs, about or {})

    def plain(self, name: str) -> str:
        """A value as [N, C, H, W]."""
        return name

    def dims(self, layer: Layer) -> tuple[int, ...]:
        """Of one map as it is laid out."""
        return layer.shape

    def write_input(self, layer: Layer) -> None:
        together, nodes = self.graph.time["bins_together"], self.nodes
        channels, height, width = layer.shape
        x = "x"
        if together > 1:
            bins = self.graph.time["bins"] // together
            x = nodes.add("Reshape", x, nodes.whole(bins, together, -1, channels, height, width))
            x = nodes.add("Transpose", x, perm=[0, 2, 1, 3, 4, 5])
        shape = nodes.whole(-1, together * channels, height, width)
        nodes.add("Reshape", x, shape, name=layer.name)

    def write_conv(self, layer: Layer, x: str) -> None:
        weight, bias = self.graph.weights[layer.name]
        self.convolve(layer, x, weight, bias)

    def convolve(self, layer: Layer, x: str, weight: np.ndarray, bias: np.ndarray) -> None:
        """A float convolution of [N, C, H, W]."""
        settings, constant = layer.settings, self.nodes.constant
        self.nodes.add(
            "Conv",
            x,
            constant(weight),
            constant(bias),
            name=layer.name,
            kernel_shape=settings["kernel"],
            strides=settings["stride"],
            pads=settings["padding"] * 2,
            dilations=settings["dilation"],
            group=settings["groups"],
        )

    def write_neuron(self, layer: Layer, x: str) -> None:
        settings, nodes = layer.settings, self.nodes
        spikes, v = [], self.state(layer)
        for t, u in enumerate(nodes.split(x, layer.steps)):
            if settings["input_scale"] != 1:
                u = nodes.add("Mul", u, nodes.constant(settings["input_scale"]))
            if v:
                u = nodes.add("Add", u, nodes.add("Mul", v, nodes.constant(settings["decay"])))
            count = self.counts(u, settings["max_spikes"])
            spikes.append(count)
            if t + 1 < layer.steps or self.stream:
                v = self.after(u, self.real(count), settings["reset"])
        self.next_state(layer, v)
        nodes.joined(spikes, axis=0, name=layer.name)

    def counts(self, u: str, most: int) -> str:
        """round(clip(u, 0, D)), half to even."""
        constant = self.nodes.constant
        return self.nodes.add("Round", self.nodes.add("Clip", u, constant(0), constant(most)))

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

    def write_leaky_silu(self, layer: Layer, x: str) -> None:
        settings, nodes = layer.settings, self.nodes
        steps, v = [], self.state(layer)
        for u in nodes.split(x, layer.steps):
            if v:
                y = v if settings["in_place"] else self.silu(v)
                kept = nodes.add("Mul", v, nodes.add("Sub", nodes.constant(1), y))
                u = nodes.add("Add", u, nodes.add("Mul", kept, nodes.constant(settings["decay"])))
            steps.append(self.silu(u))
            v = steps[-1] if settings["in_place"] else u
        self.next_state(layer, v)
        nodes.joined(steps, axis=0, name=layer.name)

    def silu(self, x: str) -> str:
        return self.nodes.add("Mul", x, self.nodes.add("Sigmoid", x))

    def write_relu(self, layer: Layer, x: str) -> None:
        self.nodes.add("Relu", x, name=layer.name)

    def write_add(self, layer: Layer, x: str, y: str) -> None:
        self.nodes.add("Add", x, y, name=layer.name)

    def write_concat(self, layer: Layer, *maps: str) -> None:
        self.nodes.joined(maps, axis=1, name=layer.name)

    def write_upsample(self, layer: Layer, x: str) -> None:
        channels, height, width = layer.shape
        nodes = self.nodes
        x = nodes.add("Reshape", x, nodes.whole(0, channels, height // 2, 1, width // 2, 1))
        x = nodes.add("Tile", x, nodes.whole(1, 1, 1, 2, 1, 2))
        nodes.add("Reshape", x, nodes.whole(0, channels, height, width), name=layer.name)

    def write_max_pool(self, layer: Layer, x: str) -> None:
        settings = layer.settings
        self.nodes.add(
            "MaxPool",
            x,
            name=layer.name,
            kernel_shape=settings["kernel"],
            strides=settings["stride"],
            pads=settings["padding"] * 2,
        )

    def write_repeat(self, layer: Layer, x: str) -> None:
        nodes, times = self.nodes, layer.settings["times"]
        x = nodes.add("Reshape", x, nodes.whole(layer.steps // times, 1, -1, *self.dims(layer)))
        x = nodes.add("Tile", x, nodes.whole(1, times, 1, 1, 1, 1))
        nodes.add("Reshape", x, nodes.whole(-1, *self.dims(layer)), name=layer.name)

    def write_mean(self, layer: Layer, x: str) -> None:
        nodes, source = self.nodes, self.graph[layer.inputs[0]]
        x = nodes.add("Reshape", x, nodes.whole(source.steps, -1, *self.dims(layer)))
        nodes.add("ReduceMean", x, nodes.whole(0), name=layer.name, keepdims=0)
