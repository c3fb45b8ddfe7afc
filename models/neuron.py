"""The integer leaky integrate-and-fire neuron (I-LIF), one node for every published setting."""

import torch
from spikingjelly.activation_based import base, functional, surrogate
from torch import Tensor

BACKENDS = ("auto", "torch", "spikingjelly")


class ILIFFunction(torch.autograd.Function):
    """Multi-step I-LIF that keeps only the surrogate window, one bool per element and step."""

    @staticmethod
    def forward(ctx, x, v, max_spikes, decay, input_scale, detach_reset):
        window = torch.empty_like(x, dtype=torch.bool)
        spikes = torch.empty_like(x)
        for t in range(x.shape[0]):
            u = torch.add(x[t] * input_scale, v, alpha=decay).to(v.dtype)
            count = u.clamp(0, max_spikes)
            torch.eq(u, count, out=window[t])  # clipping left it alone: 0 <= u <= D
            spikes[t] = count.round_()
            v = u.sub_(count)
        ctx.save_for_backward(window)
        ctx.decay, ctx.input_scale, ctx.detach_reset = decay, input_scale, detach_reset
        ctx.state_dtype = v.dtype
        ctx.set_materialize_grads(False)
        return spikes, v

    @staticmethod
    def backward(ctx, grad_spikes, grad_v):
        (window,) = ctx.saved_tensors
        if grad_spikes is None:
            grad_spikes = torch.zeros(window.shape, dtype=ctx.state_dtype, device=window.device)
        grad_x = torch.empty_like(grad_spikes)
        for t in reversed(range(window.shape[0])):
            grad_u = grad_spikes[t] * window[t]
            if grad_v is not None:
                grad_u = grad_u + (grad_v if ctx.detach_reset else grad_v * ~window[t])
            grad_x[t] = grad_u * ctx.input_scale
            grad_v = grad_u * ctx.decay
        return grad_x, grad_v, None, None, None, None


class ILIFNode(base.MemoryModule):
    """Spike counts S of membrane U: x [T, ...] -> integers 0..D of the same shape and dtype.

    U[t] = decay * (U[t-1] - S[t-1]) + input_scale * x[t];  S[t] = round(clip(U[t], 0, D))
    Rounding is half to even; the surrogate gradient is 1 where 0 <= U <= D, else 0. With
    `detach_reset` no gradient flows through S[t-1]. The state `v` = U - S is carried from call
    to call until `reset()` (or SpikingJelly's `reset_net`), in float32 or wider. D = 1 is a
    binary LIF. Published settings (decay, input_scale): COCO (.25, 1), Gen1 (.5, .5).
    Raises ValueError for settings outside their range.
    Source: Luo et al., SpikeYOLO, ECCV 2024, arXiv:2407.20708.
    """

    def __init__(
        self,
        max_spikes: int = 4,
        decay: float = 0.25,
        input_scale: float = 1.0,
        detach_reset: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if max_spikes < 1 or max_spikes != int(max_spikes):
            raise ValueError(f"max_spikes is {max_spikes}, expected an integer of at least 1")
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}, expected a share of the membrane in [0, 1]")
        if backend not in BACKENDS:
            raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
        if backend == "spikingjelly" and not 0 < decay < 1:
            raise ValueError(f"backend 'spikingjelly' needs decay inside (0, 1), found {decay}")
        self.max_spikes = int(max_spikes)
        self.decay = decay
        self.input_scale = input_scale
        self.detach_reset = detach_reset
        self.backend = backend
        self.step_mode = "m"
        self.register_memory("v", None)

    def multi_step_forward(self, x: Tensor) -> Tensor:
        v = self._initial_state(x)
        if self.backend == "spikingjelly":
            spikes, self.v = self._spikingjelly(x, v)
        else:
            spikes, self.v = ILIFFunction.apply(
                x, v, self.max_spikes, self.decay, self.input_scale, self.detach_reset
            )
        return spikes

    def _initial_state(self, x: Tensor) -> Tensor:
        if self.v is None:
            return torch.zeros_like(x[0], dtype=torch.promote_types(x.dtype, torch.float32))
        if self.v.shape != x.shape[1:]:
            raise ValueError(
                f"the carried state has shape {tuple(self.v.shape)}, the input needs "
                f"{tuple(x.shape[1:])}: call reset() before another batch size or resolution"
            )
        return self.v

    def _spikingjelly(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        spikes, v, _ = functional.ilif_multi_step(
            x if self.input_scale == 1 else x * self.input_scale,
            v,
            1 / (1 - self.decay),
            1.0,
            surrogate.MultiLevelSpikeCount(self.max_spikes),
            self.detach_reset,
        )
        return spikes, v

    def extra_repr(self) -> str:
        return (
            f"max_spikes={self.max_spikes}, decay={self.decay}, input_scale={self.input_scale}, "
            f"detach_reset={self.detach_reset}, backend={self.backend!r}"
        )
