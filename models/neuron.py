"""What a neuron is, and the integer leaky integrate-and-fire neuron (I-LIF, NI-LIF).

A neuron of one's own: a module that keeps to `Neuron`, and a line in NEURONS.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from spikingjelly.activation_based import base, functional, surrogate
from torch import Tensor, nn

Backend = Literal["auto", "cupy", "spikingjelly", "torch"]
BACKENDS = get_args(Backend)


@runtime_checkable
class Neuron(Protocol):
    """What energy, deploy, firing rates and spike-driven ask: x [T, ...] -> counts [T, ...].

    `levels`: largest count. `repeats`: slots that a time step is shown in. `spike_value`: what one
    spike of a count is in the output; `deploy` sets it to 1 and scales the weights that read it.
    `is_spiking`: are counts spikes, which accumulate, or levels, which are multiplied?
    """

    @property
    def levels(self) -> int: ...

    @property
    def repeats(self) -> int: ...

    @property
    def is_spiking(self) -> bool: ...

    spike_value: float


def neurons(network: nn.Module) -> dict[str, Neuron]:
    """Those of a network, by name. ValueError for a node with a membrane that is no `Neuron`."""
    for name, module in network.named_modules():
        if isinstance(module, base.MemoryModule) and not hasattr(module, "is_spiking"):
            found = (
                f"neuron {name!r} is a {type(module).__name__}, which does not say what it fires"
            )
            raise ValueError(f"{found}: expected levels, repeats, spike_value and is_spiking")
    return {name: m for name, m in network.named_modules() if isinstance(m, Neuron)}


class ILIFFunction(torch.autograd.Function):
    """Multi-step I-LIF that keeps only the surrogate window, one bool per element and step."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        v: Tensor,
        max_spikes: int,
        decay: float,
        input_scale: float,
        detach_reset: bool,
        spike_value: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        window = torch.empty_like(x, dtype=torch.bool)
        spikes = torch.empty_like(x)
        for t in range(x.shape[0]):
            u = torch.add(x[t].to(v.dtype) * input_scale, v, alpha=decay)
            count = u.clamp(0, max_spikes)
            torch.eq(u, count, out=window[t])  # clipping left it alone: 0 <= u <= D
            spikes[t] = count.round_()
            v = u.sub_(count)
        if spike_value != 1:
            spikes *= spike_value
        ctx.save_for_backward(window)
        ctx.decay, ctx.input_scale, ctx.detach_reset = decay, input_scale, detach_reset
        ctx.spike_value, ctx.state_dtype = spike_value, v.dtype
        ctx.set_materialize_grads(False)
        return spikes, v

    @staticmethod
    def backward(
        ctx: Any, grad_spikes: Tensor | None, grad_v: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        (window,) = ctx.saved_tensors
        if grad_spikes is None:
            grad_spikes = torch.zeros(window.shape, dtype=ctx.state_dtype, device=window.device)
        grad_x = torch.empty_like(grad_spikes)
        if ctx.spike_value != 1:
            grad_spikes = grad_spikes.to(ctx.state_dtype) * ctx.spike_value
        for t in reversed(range(window.shape[0])):
            grad_u = grad_spikes[t].to(ctx.state_dtype) * window[t]
            if grad_v is not None:
                grad_u = grad_u + (grad_v if ctx.detach_reset else grad_v * ~window[t])
            grad_x[t] = grad_u * ctx.input_scale
            grad_v = grad_u * ctx.decay
        return grad_x, grad_v, None, None, None, None, None


def refuse_other_shape(state: Tensor | None, shape: torch.Size) -> None:
    """ValueError for a carried state of another batch or resolution."""
    if state is not None and state.shape != shape:
        found = f"the carried state has shape {tuple(state.shape)}, the input needs"
        expected = "call reset() before another batch size or resolution"
        raise ValueError(f"{found} {tuple(shape)}: {expected}")


class ILIFNode(base.MemoryModule):
    """Spike counts S of membrane U: x [T, ...] -> integers 0..D of the same shape and dtype.

    U[t] = decay * (U[t-1] - S[t-1]) + input_scale * x[t];  S[t] = round(clip(U[t], 0, D))
    Rounding is half to even; the surrogate gradient is 1 where 0 <= U <= D, else 0. `normalize`
    is NI-LIF (Spike2Former, AAAI 2025): it hands on S / D, with gradient 1 / D. `detach_reset`
    lets no gradient through S[t-1]; None is as published: not for NI-LIF. The state `v` = U - S,
    float32 or wider, is carried to the next call until `reset()` (or `reset_net`), or dropped with
    `keep_state = False`. Published (decay, input_scale): COCO (.25, 1), Gen1 (.5, .5).
    Backend "auto" is "cupy" on a GPU (without CuPy "spikingjelly"), "torch" on a CPU.
    Raises ValueError for settings outside their range and for a backend that cannot run.
    Source: Luo et al., SpikeYOLO, ECCV 2024, arXiv:2407.20708.
    """

    v: Tensor | None
    hard_reset, is_spiking, repeats = False, True, 1

    def __init__(
        self,
        max_spikes: float = 4,
        decay: float = 0.25,
        input_scale: float = 1.0,
        detach_reset: bool | None = None,
        backend: str = "auto",
        normalize: bool = False,
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
        self.detach_reset = not normalize if detach_reset is None else detach_reset
        self.backend = backend
        self.spike_value = 1 / self.max_spikes if normalize else 1.0
        self.keep_state = True
        self.step_mode = "m"
        self.register_memory("v", None)

    @property
    def levels(self) -> int:
        return self.max_spikes

    def multi_step_forward(self, x: Float[Tensor, " T *n"]) -> Float[Tensor, " T *n"]:
        refuse_other_shape(self.v, x.shape[1:])
        backend = self._backend_for(x)
        if backend == "cupy":
            from models.kernels.ilif import ilif

            settings = (self.max_spikes, self.decay, self.input_scale, self.detach_reset)
            values = (self.spike_value, self.hard_reset)
            spikes, v = ilif(x, self.v, *settings, self.keep_state, *values)
        elif backend == "spikingjelly":
            spikes, v = self._spikingjelly(x, self._initial_state(x))
        else:
            spikes, v = self._torch(x, self._initial_state(x))
        self.v = v if self.keep_state else None
        return spikes

    def _backend_for(self, x: Tensor) -> str:
        if self.backend not in ("auto", "cupy"):
            return self.backend
        from models.kernels.launch import obstacle

        reason = obstacle(x.device.type)
        if reason is None:
            return "cupy"
        if self.backend == "cupy":
            raise ValueError(f"backend 'cupy' cannot run: {reason}")
        spikingjelly_can = x.is_cuda and 0 < self.decay < 1 and not self.hard_reset
        return "spikingjelly" if spikingjelly_can else "torch"

    def _initial_state(self, x: Tensor) -> Tensor:
        if self.v is None:
            return torch.zeros_like(x[0], dtype=torch.promote_types(x.dtype, torch.float32))
        return self.v

    def _torch(
        self, x: Float[Tensor, " T *n"], v: Float[Tensor, "*n"]
    ) -> tuple[Float[Tensor, " T *n"], Float[Tensor, "*n"]]:
        settings = (self.max_spikes, self.decay, self.input_scale, self.detach_reset)
        return ILIFFunction.apply(x, v, *settings, self.spike_value)

    def _spikingjelly(
        self, x: Float[Tensor, " T *n"], v: Float[Tensor, "*n"]
    ) -> tuple[Float[Tensor, " T *n"], Float[Tensor, "*n"]]:
        spikes, v, _ = functional.ilif_multi_step(
            x if self.input_scale == 1 else x * self.input_scale,
            v,
            1 / (1 - self.decay),
            1.0,
            surrogate.MultiLevelSpikeCount(self.max_spikes),
            self.detach_reset,
        )
        return spikes if self.spike_value == 1 else spikes * self.spike_value, v

    def extra_repr(self) -> str:
        return (
            f"max_spikes={self.max_spikes}, decay={self.decay}, input_scale={self.input_scale}, "
            f"detach_reset={self.detach_reset}, backend={self.backend!r}, "
            f"spike_value={self.spike_value}"
        )


class NeuronKind(NamedTuple):
    """A neuron as configurations name it.

    `build`: the settings of a network -> a node. `deployed`: what `deploy` makes of it, if another.
    `fixed`: settings of which it has one value.
    """

    build: Callable[[Any], nn.Module]
    is_spiking: bool = True
    deployed: str | None = None
    fixed: Mapping[str, Any] = {}


def integer(settings: Any, normalize: bool = False) -> ILIFNode:
    return ILIFNode(
        settings.max_spikes,
        settings.decay,
        settings.input_scale,
        settings.detach_reset,
        settings.backend,
        normalize,
    )


def binary_slots(settings: Any) -> ILIFNode:
    """D = 1, every step shown D times."""
    node = integer(settings)
    node.max_spikes, node.repeats = 1, settings.max_spikes
    return node


def quantised(settings: Any) -> ILIFNode:
    """In one pass from rest no more than round(clip(x, 0, D)): levels, not spikes."""
    node = integer(settings)
    node.input_scale, node.is_spiking = 1.0, False
    return node


#: Names of neurons; a wing adds its own where it defines it.
NEURONS: dict[str, NeuronKind] = {
    "ilif": NeuronKind(integer),
    "nilif": NeuronKind(partial(integer, normalize=True), deployed="ilif"),
    "lif-soft": NeuronKind(binary_slots),
    "qann": NeuronKind(quantised, is_spiking=False),
    "relu": NeuronKind(lambda _settings: nn.ReLU(), is_spiking=False),
}


def neuron_factory(settings: Any) -> Callable[[], nn.Module]:
    """What makes the nodes of a network of these settings."""
    return partial(NEURONS[settings.activation].build, settings)
