"""A deployed network run by onnxruntime, called as the network itself is."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.detector import DetectorNetwork
from models.export.nodes import extra
from models.export.onnx_model import Precision, onnx_model


class OnnxNetwork:
    """x [T, B, C, H, W] -> raw maps, on the CPU, as `deployed`, which stays as it is.

    size_hw: of the input in px. With `carry_state` membranes go on from call to call until
    `reset()`. threads: 0 lets onnxruntime choose. Raises ValueError as `onnx_model`, without
    onnxruntime, and for an input of another shape.
    """

    def __init__(
        self,
        deployed: DetectorNetwork,
        size_hw: tuple[int, int],
        precision: Precision = "float32",
        carry_state: bool = False,
        threads: int = 0,
    ) -> None:
        runtime = extra("onnxruntime", "onnx")
        model = onnx_model(deployed, size_hw, precision, carry_state, fused=True)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # warnings of its own optimiser say nothing to a user
        providers = ["CPUExecutionProvider"]
        self._session = runtime.InferenceSession(model.SerializeToString(), options, providers)
        self.carry_state = carry_state
        self._inputs = {value.name: value.shape for value in self._session.get_inputs()}
        self._outputs = [value.name for value in self._session.get_outputs()]
        self._state: dict[str, np.ndarray] = {}

    def __call__(self, x: Tensor) -> list[Tensor]:
        expected = self._inputs["x"]
        if [n for i, n in enumerate(x.shape) if i != 1] != [expected[0], *expected[2:]]:
            raise ValueError(f"input has shape {tuple(x.shape)}, expected {expected}")
        if not self._state:
            self._state = {
                name: np.zeros((x.shape[1], *shape[1:]), np.float32)
                for name, shape in self._inputs.items()
                if name != "x"
            }
        if any(len(v) != x.shape[1] for v in self._state.values()):
            raise ValueError(
                f"the carried state is of another batch than {x.shape[1]}: call reset()"
            )
        values: Any = self._session.run(self._outputs, {"x": x.numpy(), **self._state})
        found = dict(zip(self._outputs, values, strict=True))
        self._state = {name: found["next" + name.removeprefix("state")] for name in self._state}
        return [torch.from_numpy(found[name]) for name in self._outputs if name.startswith("map")]

    def reset(self) -> None:
        """Let the membranes start from rest at the next call."""
        self._state = {}
