"""How much GPU memory will a training step need? Counted on any machine, on tensors without data.

A forward and backward pass in bf16, as backend "cupy" runs it, on torch's meta device: the bytes
of all tensors alive at once, at their peak. Not counted: the loss, workspaces of cuDNN, what the
allocator loses between blocks, the CUDA context.
"""

import weakref
from typing import Any
from unittest.mock import patch

import torch
from networks import Case, network
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: float32 weight, gradient, momentum and running average; bf16 copy under autocast
BYTES_PER_PARAMETER = 4 * 4 + 2


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that operators make, while they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.live = self.peak = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._follow(leaf.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self.sizes.pop(key)


def predicted_gib(case: Case, batch: int, **overrides: Any) -> float:
    """Weights, their gradients and optimiser state, and the peak of everything else."""
    with torch.device("meta"):
        model = network(case, backend="cupy", **overrides).train()
        model.to(torch.bfloat16, memory_format=torch.channels_last)
        shape = (case["time_steps"], batch, 2, case["height"], case["width"])
        frames = torch.empty(shape, dtype=torch.bfloat16)
        # meta tensors count as if CuPy could take them: its operators know their own results
        with patch("models.kernels.launch.obstacle", return_value=None), LiveBytes() as counted:
            torch.stack([raw.float().sum() for raw in model(frames)]).sum().backward()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return (counted.peak + BYTES_PER_PARAMETER * parameters) / 2**30
