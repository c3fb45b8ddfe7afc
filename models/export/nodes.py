"""ONNX nodes, one call each; `onnx` is the extra `[onnx]`."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

#: The oldest operator set that has what is written: a Split into equal parts.
OLDEST_OPSET, OPSET = 18, 18
PRODUCER = "spikeyolo-gen1"


def extra(package: str, name: str) -> Any:
    """An optional package; ValueError, naming the extra, where it is not installed."""
    try:
        return import_module(package)
    except ImportError:
        expected = f"expected the extra: pip install 'spikeyolo-gen1[{name}]'"
        raise ValueError(f"{package} is not installed, {expected}") from None


class Nodes:
    """A graph under construction: constants are shared, every value has a name."""

    def __init__(self, opset: int = OPSET) -> None:
        self.onnx = extra("onnx", "onnx")
        newest = self.onnx.defs.onnx_opset_version()
        if not OLDEST_OPSET <= opset <= newest:
            raise ValueError(f"opset is {opset}, expected {OLDEST_OPSET} to {newest}")
        self.opset = opset
        self._nodes: list[Any] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._arrays: list[Any] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """The name of a constant."""
        array = np.ascontiguousarray(value, dtype)
        key = (array.dtype.str, np.shape(value), array.tobytes())
        if key not in self._constants:
            name = self._constants[key] = f"constant_{len(self._constants)}"
            array = array.reshape(np.shape(value))
            self._arrays.append(self.onnx.numpy_helper.from_array(array, name))
        return self._constants[key]

    def whole(self, *values: int) -> str:
        """Integers [n] as a constant: axes, shapes."""
        return self.constant(values, np.int64)

    def add(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """A node with one output, called `name` if given."""
        return self.several(kind, inputs, 1, [name] if name else None, **attributes)[0]

    def several(
        self,
        kind: str,
        inputs: Sequence[str],
        count: int,
        names: Sequence[str] | None = None,
        **attributes: Any,
    ) -> list[str]:
        """A node with so many outputs."""
        number = len(self._nodes)
        outputs = list(names or (f"{kind}_{number}_{i}" for i in range(count)))
        make = self.onnx.helper.make_node
        self._nodes.append(make(kind, list(inputs), outputs, f"{kind}_{number}", **attributes))
        return outputs

    def split(self, x: str, parts: int, axis: int = 0) -> list[str]:
        """Equal parts."""
        if parts == 1:
            return [x]
        return self.several("Split", [x], parts, axis=axis, num_outputs=parts)

    def joined(self, parts: Sequence[str], axis: int, name: str = "") -> str:
        """Concatenated."""
        if len(parts) == 1 and not name:
            return parts[0]
        return self.add("Concat", *parts, name=name, axis=axis)

    def value(self, name: str, shape: Sequence[int | str], dtype: Any = np.float32) -> Any:
        """An input or output; a dimension that is a text is any number."""
        element = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.onnx.helper.make_tensor_value_info(name, element, list(shape))

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any], about: dict[str, str]) -> Any:
        """The checked model."""
        helper = self.onnx.helper
        graph = helper.make_graph(self._nodes, PRODUCER, inputs, outputs, self._arrays)
        domains = sorted({node.domain for node in self._nodes} - {""})
        sets = [helper.make_opsetid("", self.opset)]
        version = helper.find_min_ir_version_for(sets)
        sets += [helper.make_opsetid(domain, 1) for domain in domains]
        model = helper.make_model(
            graph, opset_imports=sets, ir_version=version, producer_name=PRODUCER
        )
        helper.set_model_props(model, about)
        self.onnx.checker.check_model(model, full_check=True)
        return model
