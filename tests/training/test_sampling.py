"""Which rank sees which sample."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.ranks import batches_of_rank, count_batches, shuffled


@given(st.integers(1, 60), st.integers(1, 16), st.integers(1, 8))
def test_ranks_split_every_batch_without_doubles(samples, batch_size, world):
    if samples < world or batch_size < world:
        return
    order = shuffled(samples, seed=3, epoch=1)
    shares = [batches_of_rank(order, batch_size, rank, world) for rank in range(world)]
    together = [sorted(i for part in parts for i in part) for parts in zip(*shares, strict=True)]
    alone = [sorted(batch) for batch in batches_of_rank(order, batch_size, 0, 1)]
    dropped = samples % batch_size if 0 < samples % batch_size < world else 0
    assert together == alone[: len(together)]
    assert sum(map(len, together)) == samples - dropped
    assert len(together) == count_batches(samples, batch_size, world)
    for parts in zip(*shares, strict=True):
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert min(map(len, parts)) >= 1


def test_one_process_sees_every_sample_once():
    order = shuffled(13, seed=0, epoch=0)
    batches = batches_of_rank(order, 4, 0, 1)
    assert [len(batch) for batch in batches] == [4, 4, 4, 1]
    assert sorted(index for batch in batches for index in batch) == list(range(13))


def test_epochs_and_seeds_differ():
    assert len({tuple(shuffled(20, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


@pytest.mark.parametrize(
    ("samples", "batch_size", "message"),
    [
        (3, 8, "the train split has 3 samples for 4 processes"),
        (99, 2, "batch_size has 2 samples for 4 processes"),
    ],
)
def test_fewer_samples_than_ranks_are_refused(samples, batch_size, message):
    with pytest.raises(ValueError, match=message):
        count_batches(samples, batch_size, 4)
