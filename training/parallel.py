"""Several processes that train one model: who they are, what they sum, how they agree."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """This process among `world` that torchrun started; alone by default, and then all is free."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Does this process write the files and the log?"""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks, the same on each, without gradient."""
        if self.world == 1:
            return x
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag: is it set on any rank?"""
        if self.world == 1:
            return flags
        counts = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(counts)
        return tuple(counts.bool().tolist())

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in order of ranks, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite every rank's tensors with those of rank 0."""
        if self.world > 1:
            for name in sorted(tensors):
                dist.broadcast(tensors[name], src=0)


ALONE = Ranks()


def join_ranks(cuda: bool) -> Ranks:
    """Meet the other processes that torchrun started; alone without torchrun.

    NCCL moves what lies on GPUs, gloo what lies on CPUs. Raises ValueError where a node has
    fewer GPUs than processes.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return ALONE
    ranks = Ranks(int(os.environ["RANK"]), world, int(os.environ["LOCAL_RANK"]))
    if cuda:
        if ranks.local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"torchrun started process {ranks.local_rank + 1} on a node with "
                f"{torch.cuda.device_count()} GPUs, expected one process per GPU"
            )
        torch.cuda.set_device(ranks.local_rank)
    # A restarted group meets under keys of its own: gloo would find the dead one's addresses.
    store, *_ = next(iter(rendezvous("env://")))
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo",
        store=dist.PrefixStore(f"restart {restart}", store),
        rank=ranks.rank,
        world_size=world,
    )
    return ranks


def leave_ranks() -> None:
    """Say goodbye to the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def replicate(model: nn.Module, ranks: Ranks, accumulate: int) -> nn.Module:
    """The model as every rank trains it: gradients are averaged during backward.

    The graph is declared static, so that DDP plans its buckets once, unless gradients accumulate
    over batches. Buffers are those of rank 0, also where batch norm is not synchronised.
    """
    if ranks.world == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    return DistributedDataParallel(
        model,
        device_ids=[ranks.local_rank] if on_gpu else None,
        gradient_as_bucket_view=True,
        static_graph=accumulate == 1,
    )
