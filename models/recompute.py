"""Gradient checkpointing: a block's inner maps are computed again for its gradients, not kept."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), keeping x alone for the backward pass, which runs the block a second time.

    The same gradients and running statistics as without, on a CPU to the last bit; unless the
    block runs in training mode once more between the forward and its backward pass, since
    BNAndPad reads the running statistics. For blocks without state, dropout or other chance.
    """
    return checkpoint(
        block,
        x,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), StatisticsKept(block)),
    )


class StatisticsKept:
    """Inside, batch norms of `module` leave their running statistics as they are.

    They still normalise by the batch: their momentum is 0, not their mode another.
    """

    def __init__(self, module: nn.Module) -> None:
        self.norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
        self.counters = [norm.get_buffer("num_batches_tracked") for norm in self.norms]

    def __enter__(self) -> None:
        self.momenta = [norm.momentum for norm in self.norms]
        self.counts = [counter.clone() for counter in self.counters]
        for norm in self.norms:
            norm.momentum = 0.0

    @torch.no_grad()
    def __exit__(self, *_error: object) -> None:
        for norm, momentum in zip(self.norms, self.momenta, strict=True):
            norm.momentum = momentum
        for counter, count in zip(self.counters, self.counts, strict=True):
            counter.copy_(count)
