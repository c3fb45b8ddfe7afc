"""A memory made of spikes: what a map showed comes back after its events have gone.

An object that stands still makes no events. Neurons whose membranes leak slowly and that excite
each other through their own spikes go on firing for it; their read-out is added to the map. All
of it runs on spikes, so it deploys, has a binary twin and has a price as everything else.
"""

from typing import Any

import torch
from jaxtyping import Float
from spikingjelly.activation_based import base
from torch import Tensor, nn

from models.blocks import NeuronFactory, SpikeConv, batch_norm

#: Steps after which a membrane has leaked to 1/e, from the first channel to the last.
SHORTEST_STEPS, LONGEST_STEPS = 4.0, 64.0
#: How much of its own count a neuron is given back at the start of training.
SELF_EXCITATION = 0.5


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
    feedback: Tensor | None
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
        #: What its spikes of the last step send back to it; the block around it says.
        self.register_memory("feedback", None)

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
        if self.v is not None and self.v.shape != x.shape[1:]:
            raise ValueError(
                f"the carried state has shape {tuple(self.v.shape)}, the input needs "
                f"{tuple(x.shape[1:])}: call reset() before another batch size or resolution"
            )

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


class Memory(nn.Module):
    """x [T, B, C, H, W] -> x + read-out of the memory's spikes, of the same shape.

    In every step: write = norm(conv1x1(spikes of x)), whose norm keeps the drive around 0, or
    membranes that hardly leak would never fire; count = neuron(write + recurrent(count before));
    x + norm(conv1x1(count)). It begins as the identity: the norm of the read-out is 0.
    """

    folds = (("readout", "bn"),)
    reads = (("recurrent", "neuron"), ("readout", "neuron"))

    def __init__(
        self, neuron: NeuronFactory, channels: int, max_spikes: int, kernel: int = 1
    ) -> None:
        super().__init__()
        tau = torch.logspace(0, 1, channels, LONGEST_STEPS / SHORTEST_STEPS) * SHORTEST_STEPS
        self.write = SpikeConv(neuron, channels, channels, 1)
        self.neuron = LearntNode(max_spikes, torch.exp(-1 / tau))
        self.recurrent = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        self.readout = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn: nn.Module = batch_norm(channels)
        nn.init.zeros_(self.bn.get_parameter("weight"))
        with torch.no_grad():
            own = nn.init.dirac_(torch.empty_like(self.recurrent.weight))
            self.recurrent.weight.mul_(0.1).add_(own, alpha=SELF_EXCITATION)

    @property
    def carrier(self) -> nn.Module:
        """Whose state is carried from window to window."""
        return self.neuron

    def forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B C H W"]:
        node = self.neuron
        node.check_state(x)
        drive, outputs = self.write(x), []
        carried, node.keep_state = node.keep_state, True  # from step to step
        for t in range(len(drive)):
            now = drive[t : t + 1]
            count = node(now if node.feedback is None else now + node.feedback)[0]
            outputs.append(self.readout(count))
            node.feedback = self.recurrent(count)
        node.keep_state = carried
        if not carried:
            node.reset()
        return x + self.bn(torch.cat(outputs)).unflatten(0, x.shape[:2])


def is_of_memory(name: str) -> bool:
    """Is a tensor of that name one that a network without memory lacks?"""
    return name.startswith("memory.") or name.endswith(".decay_logit")
