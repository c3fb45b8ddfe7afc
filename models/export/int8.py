"""Graph -> ONNX with int8 weights: spikes are bytes, and convolutions of them integer products.

Maps lie channels-last, so that a convolution is one matrix product of what each place sees,
gathered in bytes, with the weights (MatMulInteger, whose int32 sums onnxruntime scales in the same
pass). ConvInteger, which onnxruntime runs without packed weights, took longer. Depthwise
convolutions and the first layer multiply the same integers as floats: exact below 2**24, and events
may exceed what a processor without VNNI adds in pairs.
"""

import numpy as np

from models.export.graph import Graph, Layer, Weights
from models.export.nodes import OPSET
from models.export.quantise import Int8
from models.export.writer import Writer


class IntegerWriter(Writer):
    """Maps [N, H, W, C] where a matrix product makes them, [N, C, H, W] where a float convolution.

    rounded: of `quantise` of this graph. Spikes are uint8; all else as in `Writer`.
    """

    def __init__(
        self, graph: Graph, rounded: dict[str, Int8], stream: bool = False, opset: int = OPSET
    ) -> None:
        super().__init__(graph, stream, opset)
        self.rounded = rounded
        self._last: set[str] = set()  # values with channels last
        self._turned: dict[tuple[str, bool], str] = {}

    def laid(self, x: str, last: bool) -> str:
        """A value with its channels last, or not."""
        if (x in self._last) == last:
            return x
        if (x, last) not in self._turned:
            order = [0, 2, 3, 1] if last else [0, 3, 1, 2]
            self._turned[x, last] = self.nodes.add("Transpose", x, perm=order)
        return self._turned[x, last]

    def plain(self, name: str) -> str:
        return self.laid(name, last=False)

    def dims(self, layer: Layer) -> tuple[int, ...]:
        channels, height, width = layer.shape
        return (height, width, channels) if layer.name in self._last else layer.shape

    def write_conv(self, layer: Layer, x: str) -> None:
        reads, rounded = self.graph.reading(layer), self.rounded.get(layer.name)
        if rounded is None:
            weights = self.graph.weights[layer.name]
            self.convolve(layer, self._as_float(layer, x), *weights)
        elif reads == "spikes" and layer.settings["groups"] == 1:
            self._last.add(layer.name)
            self._multiply(layer, x, rounded)
        else:
            weight = rounded.weight * rounded.scale[:, None, None, None]
            self.convolve(layer, self._as_float(layer, x), *Weights(weight, rounded.bias))

    def _as_float(self, layer: Layer, x: str) -> str:
        x = self.laid(x, last=False)
        if self.graph.reading(layer) == "spikes":
            x = self.real(x)
        return x

    def _multiply(self, layer: Layer, x: str, rounded: Int8) -> None:
        nodes, out_channels = self.nodes, len(rounded.weight)
        matrix = rounded.weight.transpose(2, 3, 1, 0).reshape(-1, out_channels)
        seen = self._seen(layer, self.laid(x, last=True))
        sums = nodes.add("MatMulInteger", seen, nodes.constant(matrix, np.int8))
        sums = nodes.add("Cast", sums, to=self._type(np.float32))
        scaled = nodes.add("Mul", sums, nodes.constant(rounded.scale))
        result = nodes.add("Add", scaled, nodes.constant(rounded.bias))
        _, height, width = layer.shape
        shape = nodes.whole(-1, height, width, out_channels)
        nodes.add("Reshape", result, shape, name=layer.name)

    def _seen(self, layer: Layer, x: str) -> str:
        """[N, H', W', k k C]: of every place, what the kernel sees, row by row."""
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

    def counts(self, u: str, most: int) -> str:
        """QuantizeLinear rounds half to even and clips below 0."""
        nodes = self.nodes
        rounded = nodes.add("QuantizeLinear", u, nodes.constant(1), nodes.constant(0, np.uint8))
        return nodes.add("Clip", rounded, "", nodes.constant(most, np.uint8))

    def real(self, counts: str) -> str:
        return self.nodes.add("Cast", counts, to=self._type(np.float32))

    def _follow(self, layer: Layer, *inputs: str) -> list[str]:
        """Inputs laid as the first of them, and so the output."""
        last = inputs[0] in self._last
        if last:
            self._last.add(layer.name)
        return [self.laid(x, last) for x in inputs]

    def write_neuron(self, layer: Layer, x: str) -> None:
        super().write_neuron(layer, *self._follow(layer, x))

    def write_leaky_silu(self, layer: Layer, x: str) -> None:
        super().write_leaky_silu(layer, *self._follow(layer, x))

    def write_add(self, layer: Layer, x: str, y: str) -> None:
        super().write_add(layer, *self._follow(layer, *sorted((x, y), key=self._order)))

    def _order(self, name: str) -> bool:
        return name not in self._last

    def write_concat(self, layer: Layer, *maps: str) -> None:
        maps = tuple(self._follow(layer, *maps))
        self.nodes.joined(maps, axis=3 if layer.name in self._last else 1, name=layer.name)

    def write_upsample(self, layer: Layer, x: str) -> None:
        (x,) = self._follow(layer, x)
        if layer.name not in self._last:
            return super().write_upsample(layer, x)
        (channels, height, width), nodes = layer.shape, self.nodes
        x = nodes.add("Reshape", x, nodes.whole(0, height // 2, 1, width // 2, 1, channels))
        x = nodes.add("Tile", x, nodes.whole(1, 1, 2, 1, 2, 1))
        nodes.add("Reshape", x, nodes.whole(0, height, width, channels), name=layer.name)

    def write_max_pool(self, layer: Layer, x: str) -> None:
        super().write_max_pool(layer, self.laid(x, last=False))

    def write_repeat(self, layer: Layer, x: str) -> None:
        super().write_repeat(layer, *self._follow(layer, x))

    def write_mean(self, layer: Layer, x: str) -> None:
        super().write_mean(layer, *self._follow(layer, x))
