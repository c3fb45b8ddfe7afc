"""A memory made of spikes: what a map showed is shown again where no events have come since.

An object that stands still makes no events, so a window without events says that nothing has
changed. There, neurons fire what they heard last, in the place of the map. All of it runs on
spikes, so it deploys, has a binary twin and has a price as everything else.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from spikingjelly.activation_based import base
from torch import Tensor, nn

from models.blocks import NeuronFactory, per_step
from models.memory.heard import Heard
from models.neuron import refuse_other_shape

#: Windows after which a membrane that hears nothing has leaked to 1/e, before anything is learnt.
LASTING_WINDOWS = 64.0


class SpikeCount(torch.autograd.Function):
    """u -> round(clip(u, 0, D)); its gradient is 1 where 0 <= u <= D, else 0."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, max_spikes: int) -> Tensor:
        count = u.clamp(0, max_spikes)
        ctx.save_for_backward(u == count)
        return count.round_()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (window,) = ctx.saved_tensors
        return grad * window, None


class LearntNode(base.MemoryModule):
    """I-LIF whose share of the membrane kept is learnt: x [T, B, C, H, W] -> counts 0..D.

    U[t] = decay * V[t-1] + input_scale * x[t];  S[t] = round(clip(U[t], 0, D));  V = U - S
    decay: where it starts, inside (0, 1), of all channels [] or of each [C]. State and gradient are
    those of `ILIFNode`. ValueError for a state of another batch or resolution.
    """

    v: Tensor | None
    is_spiking, repeats, spike_value = True, 1, 1.0

    def __init__(
        self, max_spikes: int, decay: Tensor, input_scale: float = 1.0, detach_reset: bool = True
    ) -> None:
        super().__init__()
        self.max_spikes, self.input_scale, self.detach_reset = max_spikes, input_scale, detach_reset
        self.decay_logit = nn.Parameter(torch.logit(decay))
        self.keep_state = True
        self.step_mode = "m"
        self.register_memory("v", None)

    @property
    def levels(self) -> int:
        return self.max_spikes

    @property
    def decay(self) -> Tensor:
        """[] or [C]."""
        fixed = getattr(self, "fixed_decay", None)
        return torch.sigmoid(self.decay_logit) if fixed is None else fixed

    def fold(self) -> None:
        """Deploy: the decay is a number from now on."""
        if "decay_logit" in self._parameters:
            fixed = self.decay.detach()
            del self.decay_logit
            self.register_buffer("fixed_decay", fixed)

    def check_state(self, x: Float[Tensor, "T B C H W"]) -> None:
        refuse_other_shape(self.v, x.shape[1:])

    def multi_step_forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B C H W"]:
        self.check_state(x)
        decay = self.decay[..., None, None]
        dtype = torch.promote_types(x.dtype, torch.float32)
        v = torch.zeros_like(x[0], dtype=dtype) if self.v is None else self.v
        counts = []
        for now in x:
            u = decay * v + self.input_scale * now.to(dtype)
            count = SpikeCount.apply(u, self.max_spikes)
            v = u - (count.detach() if self.detach_reset else count)
            counts.append(count.to(x.dtype))
        self.v = v if self.keep_state else None
        return torch.stack(counts)

    def extra_repr(self) -> str:
        return f"max_spikes={self.max_spikes}, input_scale={self.input_scale}"


def leaky_factory(settings: Any) -> NeuronFactory:
    """Neurons of these settings, each with a decay that is learnt."""
    decay = torch.tensor(min(max(settings.decay, 0.01), 0.99))

    def build() -> nn.Module:
        scale, detach = settings.input_scale, settings.detach_reset
        return LearntNode(settings.max_spikes, decay, scale, detach)

    return build


class HoldingNode(LearntNode):
    """Stores counts where they are heard, fires them elsewhere: x [T, B, C, H, W] -> 0..D.

    Where heard, bool [B, 1, H, W]: V = x, and no spikes. Elsewhere, as a `LearntNode`, from window
    to window: U = decay * V + feedback;  S = round(clip(U, 0, D));  V = U - S
    Each of the T steps has a membrane; the state is [B, T, C, H, W], and feedback, too.
    """

    feedback: Tensor | None

    def __init__(self, max_spikes: int, decay: Tensor) -> None:
        super().__init__(max_spikes, decay)
        #: What its spikes of the last window send back to it; the block around it says.
        self.register_memory("feedback", None)

    def check_state(self, x: Float[Tensor, "T B C H W"]) -> None:
        refuse_other_shape(self.v, x.transpose(0, 1).shape)

    def multi_step_forward(  # type: ignore[override]
        self, x: Float[Tensor, "T B C H W"], heard: Bool[Tensor, "B 1 H W"]
    ) -> Float[Tensor, "T B C H W"]:
        stored = x.transpose(0, 1).to(torch.promote_types(x.dtype, torch.float32))
        u = torch.zeros_like(stored)
        if self.v is not None and self.feedback is not None:
            u = self.decay[..., None, None] * self.v + self.feedback
        count = SpikeCount.apply(u, self.max_spikes).masked_fill(heard[:, None], 0)
        v = u - (count.detach() if self.detach_reset else count)
        self.v = torch.where(heard[:, None], stored, v)
        return count.to(x.dtype).transpose(0, 1).contiguous()

    def holds(self) -> Tensor | None:
        """Of every neuron something that is 0 at rest; None at rest."""
        if self.v is None or self.feedback is None:
            return None
        return self.v.detach().abs() + self.feedback.detach().abs()


class Memory(nn.Module):
    """x [T, B, C, H, W] and events [T', B, _, s*H, s*W] -> x, from memory where no events come.

    Where they come, the neuron stores the spikes of x. Elsewhere it fires, and readout(S) takes
    the place of x; feedback = recurrent(S). Both convolutions begin as identities: before it
    learns, a memory repeats the spikes it heard last, and a window from rest is seen as without.
    """

    multiplies = ("read",)  # spike_value is divided out
    reads = (("recurrent", "neuron"), ("readout", "neuron"))

    def __init__(self, neuron: NeuronFactory, channels: int, settings: Any, stride: int) -> None:
        super().__init__()
        kernel, leak = settings.memory_kernel, torch.full((channels,), -1 / LASTING_WINDOWS)
        self.heard = Heard(stride, settings.memory_events)
        self.read: Any = neuron()
        self.neuron = HoldingNode(settings.max_spikes, leak.exp())
        self.recurrent = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        self.readout = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.dirac_(self.recurrent.weight)
        nn.init.dirac_(self.readout.weight)
        with torch.no_grad():
            self.readout.weight.div_(settings.input_scale)

    @property
    def carrier(self) -> nn.Module:
        """Whose state is carried from window to window."""
        return self.neuron

    def forward(
        self, x: Float[Tensor, "T B C H W"], events: Float[Tensor, "_ B _ _ _"]
    ) -> Float[Tensor, "T B C H W"]:
        node = self.neuron
        node.check_state(x)
        heard = self.heard(events, node.holds())
        counts = node(self.read(x) / self.read.spike_value, heard)
        shown = per_step(counts, self.readout)
        node.feedback = per_step(counts, self.recurrent).transpose(0, 1)
        if not node.keep_state:
            node.reset()
        return torch.where(heard, x, shown)


def is_of_memory(name: str) -> bool:
    """Is a tensor of that name one that a network without memory lacks?"""
    return name.startswith("memory.") or name.endswith(".decay_logit")
