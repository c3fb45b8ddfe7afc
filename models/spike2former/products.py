"""Products of spikes with spikes or with numbers: they have no weights, but their price.

On D binary slots a count accumulates what it selects once per spike, so a product of counts is
made of additions alone, as many as there are pairs of spikes that meet.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from models.operations import Work
from models.spike2former.sampling import POINTS, sample

CORNERS = 4  # px that one bilinear reading weighs


def on_slots(counts: Tensor, slots: int) -> list[Tensor]:
    """Integers 0..slots -> as many maps of 0 and 1, whose sum they are; of 0 slots themselves.

    Raises ValueError for other numbers.
    """
    if not slots:
        return [counts]
    if not torch.equal(counts.round().clamp(0, slots), counts):
        raise ValueError(f"a product reads other numbers than integer counts in 0..{slots}")
    return [(counts > slot).to(counts) for slot in range(slots)]


class SpikeMatmul(nn.Module):
    """a [..., m, k] @ b [..., k, n], of which one or both are spikes.

    With `binary_slots`, as in a spike-driven twin, spikes are 0 or 1 and select what is added.
    """

    binary_slots = 0

    def __init__(self, spikes: Literal["left", "right", "both"]) -> None:
        super().__init__()
        self.spikes = spikes

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        left = [a] if self.spikes == "right" else on_slots(a, self.binary_slots)
        right = [b] if self.spikes == "left" else on_slots(b, self.binary_slots)
        every = [x @ y for x in left for y in right]
        return torch.stack(every).sum(0) if self.binary_slots else every[0]

    def work(self, inputs: tuple[Tensor, ...], output: Tensor) -> list[Work]:
        """A spike of one side adds a row or column of the other; of both, each pair adds 1."""
        a, b = (x.double() for x in inputs)
        if self.spikes == "both":
            added = (a.sum(-2) * b.sum(-1)).sum()
        else:
            added = a.sum() * b.shape[-1] if self.spikes == "left" else b.sum() * a.shape[-2]
        return [Work("", output.numel() * a.shape[-1], added.item(), output.numel())]


class Sampling(nn.Module):
    """`sample`: real values are read bilinearly, spikes select what is added."""

    binary_slots = 0

    def forward(self, values: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        every = [sample(values, offset, w) for w in on_slots(weight, self.binary_slots)]
        return torch.stack(every).sum(0) if self.binary_slots else every[0]

    def work(self, inputs: tuple[Tensor, ...], output: Tensor) -> list[Work]:
        """Every point multiplies by four weights of its own, wanted or not; what is wanted adds."""
        _values, _offset, weight = inputs
        points = output.numel() * POINTS
        group = output.shape[1] * POINTS // weight.shape[1]
        added = weight.double().sum().item() * group
        return [
            Work("read", points * CORNERS, None, points),
            Work("select", points, added, output.numel()),
        ]
