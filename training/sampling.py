"""Which samples a rank sees, in which batch: a pure function of seed, epoch and rank."""

from collections.abc import Sequence

import torch


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
