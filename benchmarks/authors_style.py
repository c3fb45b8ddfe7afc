"""SpikeYOLO run the straightforward way, as its authors run it: the yardstick of our speed.

Same graph and same weights; but a neuron is a Python loop over T of separate tensor operations,
autograd keeps the membrane of every step, nothing is folded, and maps stay contiguous (NCHW) in
float16 under autocast. Written anew from the equations in models.neuron.
"""

import copy

import torch
from torch import Tensor, nn

from models.neuron import ILIFNode
from models.spikeyolo import SpikeYOLO


class Quantise(torch.autograd.Function):
    """round(clip(U, 0, D)), with gradient 1 where 0 <= U <= D."""

    @staticmethod
    def forward(ctx, u, max_spikes):
        ctx.save_for_backward(u)
        ctx.max_spikes = max_spikes
        return u.clamp(0, max_spikes).round()

    @staticmethod
    def backward(ctx, gradient):
        (u,) = ctx.saved_tensors
        return gradient * ((u >= 0) & (u <= ctx.max_spikes)), None


class LoopedNode(nn.Module):
    """What ILIFNode computes from rest, x [T, ...] -> spike counts, one operation at a time."""

    def __init__(self, node: ILIFNode) -> None:
        super().__init__()
        self.max_spikes, self.decay = node.max_spikes, node.decay
        self.input_scale, self.detach_reset = node.input_scale, node.detach_reset

    def forward(self, x: Tensor) -> Tensor:
        v = torch.zeros_like(x[0])
        counts = []
        for step in x:
            u = self.decay * v + self.input_scale * step
            count = Quantise.apply(u, self.max_spikes)
            v = u - (count.detach() if self.detach_reset else count)
            counts.append(count)
        return torch.stack(counts)


def authors_style(model: SpikeYOLO) -> SpikeYOLO:
    """A copy of `model` with looped neurons."""
    copied = copy.deepcopy(model)
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ILIFNode):
                setattr(parent, name, LoopedNode(child))
    return copied
