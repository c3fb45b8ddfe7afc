"""Batch norm over the batches of all ranks, so that N small batches are one large one."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


def synchronise_batch_norm(model: nn.Module) -> None:
    """Let every batch norm of the model see all ranks: torch's own on GPUs, ours on CPUs."""
    if next(model.parameters()).is_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = RankBatchNorm2d  # the same tensors, another forward


class RankBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics in training are those of all ranks' batches together.

    For CPUs, which torch's SyncBatchNorm refuses; batches may differ in size from rank to rank.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        here = x.new_full((1,), x.numel() / x.shape[1])
        sums = sum_over_ranks(torch.cat((x.sum((0, 2, 3)), here)))
        count, mean = sums[-1].detach(), sums[:-1] / sums[-1]
        centred = x - mean[:, None, None]
        variance = sum_over_ranks(centred.square().sum((0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return centred * scale[:, None, None] + self.bias[:, None, None]

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards these."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _SumOverRanks(torch.autograd.Function):
    """y = sum over ranks of x; what depends on y on any rank depends on every rank's x."""

    @staticmethod
    def forward(ctx, x):
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum over ranks, the same on each; gradients flow back to all of them."""
    return _SumOverRanks.apply(x)
