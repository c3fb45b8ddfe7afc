"""Graph -> ONNX with int8 weights: spikes are bytes, and convolutions of them integer products.

Maps lie channels-last, so that a convolution is one matrix product of what each place sees,
gathered in bytes, with the weights; ConvInteger, which onnxruntime runs without packed weights,
took longer. Depthwise convolutions and the first layer multiply the same weights as floats: there
a matrix product has little to do, and sums of pairs of events may overflow without VNNI.
"""

import numpy as np

from models.export.graph import Graph, Layer, Weights
from models.export.nodes import OPSET
from models.export.quantise import Int8
from models.export.writer import Writer


class IntegerWriter(Writer):
    """Maps [B, H, W, C] where a matrix product makes them, [B, C, H, W] where a float convolution.

    rounded: of `quantise` of this graph. Spikes are uint8; all else as in `Writer`. `fused`: scale
    and bias in the same node, one of onnxruntime's own (MatMulIntegerToFloat).
    """

    def __init__(
        self,
        graph: Graph,
        rounded: dict[str, Int8],
        stream: bool = False,
        opset: int = OPSET,
        fused: bool = True,
    ) -> None:
        super().__init__(graph, stream, opset)
        self.rounded, self.fused = rounded, fused
        self._turned: dict[str, str] = {}
        self._last: dict[str, bool] = {}  # does a layer's map have its channels last?

    def _is_last(self, x: str) -> bool:
        return self._last.get(x.rpartition("@")[0], False)

    def laid(self, x: str, last: bool) -> str:
        """A layer's value with its channels last, or not."""
        if self._is_last(x) == last:
            return x
        if x not in self._turned:
            order = [0, 2, 3, 1] if last else [0, 3, 1, 2]
            self._turned[x] = self.nodes.add("Transpose", x, perm=order)
        return self._turned[x]

    def plain(self, name: str) -> str:
        return self.laid(name, last=False)

    def dims(self, layer: Layer) -> tuple[int, ...]:
        channels, height, width = layer.shape
        return (height, width, channels) if self._last.get(layer.name) else layer.shape

    def step_conv(self, layer: Layer, y: str, x: str) -> None:
        rounded, spikes = self.rounded.get(layer.name), self.graph.reading(layer) == "spikes"
        if rounded is not None and spikes and layer.settings["groups"] == 1:
            self._last[layer.name] = True
            self._multiply(layer, y, self.laid(x, last=True), rounded)
            return
        weights = self.graph.weights[layer.name]
        if rounded is not None:
            scale = rounded.scale[:, None, None, None]
            weights = Weights(rounded.weight * scale, rounded.bias)
        x = self.laid(x, last=False)
        self.convolve(layer, y, self.real(x) if spikes else x, *weights)

    def _multiply(self, layer: Layer, y: str, x: str, rounded: Int8) -> None:
        nodes, out_channels = self.nodes, len(rounded.weight)
        matrix = rounded.weight.transpose(2, 3, 1, 0).reshape(-1, out_channels)
        seen, weight = self._seen(layer, x), nodes.constant(matrix, np.int8)
        scale, bias = nodes.constant(rounded.scale), nodes.constant(rounded.bias)
        if self.fused:
            read = (seen, weight, nodes.constant(1), scale, "", "", bias)
            result = nodes.add("MatMulIntegerToFloat", *read, domain="com.microsoft")
        else:
            sums = nodes.add("MatMulInteger", seen, weight)
            sums = nodes.add("Cast", sums, to=self._type(np.float32))
            result = nodes.add("Add", nodes.add("Mul", sums, scale), bias)
        _, height, width = layer.shape
        nodes.add("Reshape", result, nodes.whole(-1, height, width, out_channels), name=y)

    def _seen(self, layer: Layer, x: str) -> str:
        """[B, H' W', k k C]: of every place, what the kernel sees, row by row."""
        settings, nodes = layer.settings, self.nodes
        channels, height, width = self.graph[layer.inputs[0]].shape
        if settings["kernel"] == [1, 1] and settings["stride"] == [1, 1]:
            return x
        (kh, kw), (sy, sx), (py, px), (dy, dx) = (
            settings[name] for name in ("kernel", "stride", "padding", "dilation")
        )
        _, high, wide = layer.shape
        rows = np.arange(high)[:, None] * sy - py + np.arange(kh) * dy
        columns = np.arange(wide)[:, None] * sx - px + np.arange(kw) * dx
        y, x_at = rows[:, None, :, None], columns[None, :, None, :]
        inside = (y >= 0) & (y < height) & (x_at >= 0) & (x_at < width)
        places = np.where(inside, y * width + x_at, height * width)  # the last place is padding
        x = nodes.add("Reshape", x, nodes.whole(-1, height * width, channels))
        x = nodes.add("Pad", x, nodes.whole(0, 0, 0, 0, 1, 0))
        x = nodes.add("Gather", x, nodes.constant(places.ravel(), np.int32), axis=1)
        return nodes.add("Reshape", x, nodes.whole(-1, high * wide, kh * kw * channels))

    def _type(self, dtype: type) -> int:
        return int(self.nodes.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def counts(self, y: str, u: str, most: int) -> None:
        """QuantizeLinear rounds half to even and clips below 0."""
        nodes = self.nodes
        rounded = nodes.add("QuantizeLinear", u, nodes.constant(1), nodes.constant(0, np.uint8))
        nodes.add("Clip", rounded, "", nodes.constant(most, np.uint8), name=y)

    def real(self, counts: str) -> str:
        return self.nodes.add("Cast", counts, to=self._type(np.float32))

    def write_neuron(self, layer: Layer) -> None:
        self._last[layer.name] = self._last.get(layer.inputs[0], False)
        super().write_neuron(layer)

    def write_leaky_silu(self, layer: Layer) -> None:
        self._last[layer.name] = self._last.get(layer.inputs[0], False)
        super().write_leaky_silu(layer)

    def write_repeat(self, layer: Layer) -> None:
        self._last[layer.name] = self._last.get(layer.inputs[0], False)
        super().write_repeat(layer)

    def write_mean(self, layer: Layer) -> None:
        self._last[layer.name] = self._last.get(layer.inputs[0], False)
        super().write_mean(layer)

    def step_add(self, layer: Layer, y: str, a: str, b: str) -> None:
        last = self._last[layer.name] = self._is_last(a) or self._is_last(b)
        super().step_add(layer, y, self.laid(a, last), self.laid(b, last))

    def step_concat(self, layer: Layer, y: str, *maps: str) -> None:
        last = self._last[layer.name] = any(map(self._is_last, maps))
        self.nodes.joined([self.laid(x, last) for x in maps], axis=3 if last else 1, name=y)

    def step_upsample(self, layer: Layer, y: str, x: str) -> None:
        self._last[layer.name] = self._is_last(x)
        if not self._is_last(x):
            super().step_upsample(layer, y, x)
            return
        (channels, height, width), nodes = layer.shape, self.nodes
        x = nodes.add("Reshape", x, nodes.whole(0, height // 2, 1, width // 2, 1, channels))
        x = nodes.add("Tile", x, nodes.whole(1, 1, 2, 1, 2, 1))
        nodes.add("Reshape", x, nodes.whole(0, height, width, channels), name=y)

    def step_max_pool(self, layer: Layer, y: str, x: str) -> None:
        super().step_max_pool(layer, y, self.laid(x, last=False))
