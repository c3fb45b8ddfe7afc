"""The neurons of EMS-YOLO: binary, leaky, with a hard reset; and the same with SiLU for spikes."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from spikingjelly.activation_based import base
from torch import Tensor

from models.neuron import NEURONS, ILIFNode, NeuronKind

BACKENDS = ("auto", "cupy", "torch")


class LIFFunction(torch.autograd.Function):
    """Multi-step LIF that keeps two bools per element and step: the window and the spikes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        window = torch.empty_like(x, dtype=torch.bool)
        fired = torch.empty_like(x, dtype=torch.bool)
        for t in range(x.shape[0]):
            u = torch.add(x[t].to(v.dtype), v, alpha=decay)
            torch.gt(u, 0.5, out=fired[t])
            torch.logical_and(u > 0, u < 1, out=window[t])
            v = u.masked_fill_(fired[t], 0)
        ctx.save_for_backward(window, fired)
        ctx.decay, ctx.state_dtype = decay, v.dtype
        ctx.set_materialize_grads(False)
        return fired.to(x.dtype), v

    @staticmethod
    def backward(
        ctx: Any, grad_spikes: Tensor | None, grad_v: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        window, fired = ctx.saved_tensors
        if grad_spikes is None:
            grad_spikes = torch.zeros(window.shape, dtype=ctx.state_dtype, device=window.device)
        grad_x = torch.empty_like(grad_spikes)
        for t in reversed(range(window.shape[0])):
            grad_u = grad_spikes[t].to(ctx.state_dtype) * window[t]
            if grad_v is not None:
                grad_u = grad_u + grad_v * ~fired[t]
            grad_x[t] = grad_u
            grad_v = grad_u * ctx.decay
        return grad_x, grad_v, None


class LIFNode(ILIFNode):
    """Spikes S of membrane U: x [T, ...] -> 0 or 1, of the same shape and dtype.

    U[t] = decay * U[t-1] * (1 - S[t-1]) + x[t];  S[t] = 1 where U[t] > 0.5, else 0
    An I-LIF with D = 1 (whose rounding has the same threshold) but for its reset, to 0, through
    which the spike carries no gradient, and its open surrogate window: 1 where 0 < U < 1. Keeps
    and resets its state as `ILIFNode` does, on the backends "cupy" and "torch"; raises ValueError
    for another.
    Source: Su et al., "Deep Directly-Trained Spiking Neural Networks for Object Detection",
    ICCV 2023, arXiv:2307.11411.
    """

    hard_reset = True

    def __init__(self, decay: float = 0.25, backend: str = "auto") -> None:
        if backend not in BACKENDS:
            known = ", ".join(BACKENDS)
            raise ValueError(f"backend is {backend!r}, the binary LIF has one of {known}")
        super().__init__(1, decay, backend=backend)

    def _torch(
        self, x: Float[Tensor, " T *n"], v: Float[Tensor, "*n"]
    ) -> tuple[Float[Tensor, " T *n"], Float[Tensor, "*n"]]:
        return LIFFunction.apply(x, v, self.decay)

    def extra_repr(self) -> str:
        return f"decay={self.decay}, backend={self.backend!r}"


NEURONS["lif-hard"] = NeuronKind(
    lambda settings: LIFNode(settings.decay, settings.backend),
    fixed={"max_spikes": 1, "input_scale": 1, "detach_reset": True},
)


class LeakySiLU(base.MemoryModule):
    """The neuron of EMS-YOLO with SiLU in place of spikes: x [T, ...] -> real values.

    U[t] = decay * V[t-1] * (1 - Y[t-1]) + x[t];  Y[t] = silu(U[t]), no gradient through (1 - Y).
    V is Y in the authors' networks, whose SiLU works in place, and U in their block alone
    (`in_place` False). In one step from rest, as ANN twins run, it is SiLU. Keeps its state as
    `ILIFNode` does.
    """

    v: Tensor | None
    is_spiking = False

    def __init__(self, decay: float = 0.25, in_place: bool = True) -> None:
        super().__init__()
        self.decay, self.in_place = decay, in_place
        self.keep_state, self.step_mode = True, "m"
        self.register_memory("v", None)

    def multi_step_forward(self, x: Float[Tensor, " T *n"]) -> Float[Tensor, " T *n"]:
        steps, v = [], self.v
        for u in x:
            if v is not None:
                y = v if self.in_place else F.silu(v)
                u = self.decay * v * (1 - y.detach()) + u
            steps.append(F.silu(u))
            v = steps[-1] if self.in_place else u
        self.v = v if self.keep_state else None
        return torch.stack(steps)

    def extra_repr(self) -> str:
        return f"decay={self.decay}"
