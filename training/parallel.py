"""Several processes that train one model: who they are, what they sum, how they agree."""

import os
import threading
from collections.abc import Callable, Mapping
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
    world = int(os.environ.get("WORLD_SIZE", 1))
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
