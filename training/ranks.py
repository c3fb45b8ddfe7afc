"""Several processes that train one model: who they are, what they share, how they agree."""

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from gen1.ending import fail, leave


@dataclass
class Ranks:
    """This process among `world` that torchrun started; alone by default, and then all is free."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    store: Any = None  # what all ranks and torchrun know
    ending: Any = field(default_factory=threading.Lock)  # held by the thread that ends this one
    group: Any = None  # on which the ranks watch each other
    watcher: Any = None
    finish: Callable[[], object] = lambda: None  # what is left to do when another one dies

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

    def join(self, cuda: bool) -> None:
        """Meet the other processes, and end from now on when one of them dies.

        NCCL moves what lies on GPUs, gloo what lies on CPUs. Raises ValueError where a node has
        fewer GPUs than processes.
        """
        if self.world == 1:
            return
        if cuda:
            if self.local_rank >= torch.cuda.device_count():
                raise ValueError(
                    f"torchrun started process {self.local_rank + 1} on a node with "
                    f"{torch.cuda.device_count()} GPUs, expected one process per GPU"
                )
            torch.cuda.set_device(self.local_rank)
        backends = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        dist.init_process_group(backends, store=self.store, rank=self.rank, world_size=self.world)
        self.group = dist.new_group(backend="gloo", timeout=timedelta(days=365))
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def _watch(self) -> None:
        """Wait for the goodbye of the next rank; end this process if that one dies without.

        Only a thread can: NCCL would wait for the dead for ever, and scoring would not notice.
        """
        try:
            dist.recv(torch.zeros(1), (self.rank + 1) % self.world, self.group)
        except RuntimeError as error:
            code = self.fail(error)
            with suppress(Exception):
                self.finish()
            leave(code)

    def fail(self, error: BaseException) -> int:
        """As `gen1.ending.fail`, but only the first process to fail says why."""
        first = True
        if self.store is not None:
            self.ending.acquire()  # for good: this process ends
            with suppress(RuntimeError):  # torchrun, which keeps the store, may be dead
                first = self.store.add("failed", 1) == 1
        return fail(error, "lower batch_size or workers") if first else 1

    def leave(self) -> None:
        """Part from the other processes when all are done: they would end with this one."""
        if self.watcher is not None:
            dist.send(torch.zeros(1), (self.rank - 1) % self.world, self.group)
            self.watcher.join()
            dist.destroy_process_group()


ALONE = Ranks()


def find_ranks() -> Ranks:
    """Which of the processes this is that torchrun started; alone without torchrun."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return ALONE
    # A restarted group meets under keys of its own: gloo would find the dead one's addresses.
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"restart {restart}", next(iter(rendezvous("env://")))[0])
    return Ranks(int(os.environ["RANK"]), world, int(os.environ["LOCAL_RANK"]), store)


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


def count_batches(samples: int, batch_size: int, world: int) -> int:
    """Batches of an epoch; a last one that cannot give every rank a sample is left out.

    Raises ValueError where there are fewer samples, or a smaller batch, than ranks.
    """
    for name, found in (("batch_size", batch_size), ("the train split", samples)):
        if found < world:
            raise ValueError(
                f"{name} has {found} samples for {world} processes, expected one each at least"
            )
    return samples // batch_size + (samples % batch_size >= world)


def batches_of_rank(
    order: Sequence[int], batch_size: int, rank: int, world: int
) -> list[list[int]]:
    """Cut `order` into batches of all ranks together; this rank's share of each, in turn.

    No sample is doubled; those of the last batch are dropped only if they are fewer than ranks.
    """
    count = count_batches(len(order), batch_size, world)
    starts = range(0, count * batch_size, batch_size)
    return [list(order[start : start + batch_size][rank::world]) for start in starts]


def shuffled(samples: int, seed: int, epoch: int) -> list[int]:
    """The order of an epoch."""
    generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
    return torch.randperm(samples, generator=generator).tolist()


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
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


class _SumOverRanks(torch.autograd.Function):
    """y = sum over ranks of x; what depends on y on any rank depends on every rank's x."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum over ranks, the same on each; gradients flow back to all of them."""
    return _SumOverRanks.apply(x)
