"""Checkpointed stages change memory and time, and nothing else."""

import pytest
import torch
from torch import Tensor

from models import build_model
from models.recompute import recomputed
from models.spikeyolo import SpikeYOLO


def network(checkpoint_stages: bool, **overrides) -> SpikeYOLO:
    torch.manual_seed(0)
    model = build_model(
        "spikeyolo-p", variant="gen1", checkpoint_stages=checkpoint_stages, **overrides
    )
    return model.double().train()


def train(model: SpikeYOLO, batches: list[Tensor]) -> dict[str, Tensor]:
    """Maps of the last batch, summed gradients and buffers after training on the batches."""
    for x in batches:
        maps = model(x)
        sum(raw.square().sum() for raw in maps).backward()
    gradients = {f"{name}.grad": p.grad for name, p in model.named_parameters()}
    return {**{f"map {i}": m for i, m in enumerate(maps)}, **gradients, **model.state_dict()}


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["ilif", "nilif", "lif", "relu"])
def test_maps_gradients_and_running_statistics_are_the_same(events, lively, activation):
    """Over two batches, as with accumulated gradients; equal to the last bit."""
    batches = [events(4, 2, 2, 32, 64, seed=seed) for seed in (0, 1)]
    kept, again = (
        train(lively(network(on, activation=activation)).train(), batches) for on in (False, True)
    )
    assert kept["stage2.0.mixer.bn1.num_batches_tracked"] == 2
    assert kept["stage2.0.conv1.conv.weight.grad"].abs().max() > 1e-6
    assert {*kept} == {*again}
    for name, tensor in kept.items():
        assert torch.equal(again[name], tensor), name


@pytest.mark.parametrize("kind", ["stage1", "stage3"])
def test_a_second_backward_pass_gives_the_same_gradients(lively, kind):
    block = lively(getattr(network(False), kind)[0]).train()
    channels = block.mixer.pointwise.in_channels
    x = torch.randn(2, 2, channels, 8, 8, dtype=torch.float64, requires_grad=True)
    y = recomputed(block, x)
    first, second = (torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert block.mixer.bn1.num_batches_tracked == 1
    assert block.mixer.bn1.momentum == 0.03


def calls_of_a_block(model: SpikeYOLO, x: Tensor, backward: bool) -> int:
    calls = []
    model.stage2[0].mixer.register_forward_hook(lambda *_given: calls.append(1))
    total = sum(raw.sum() for raw in model(x))
    if backward:
        total.backward()
    return len(calls)


def test_blocks_run_twice_where_there_are_gradients_only(events):
    x = events(4, 1, 2, 32, 32)
    assert calls_of_a_block(network(False), x, backward=True) == 1
    assert calls_of_a_block(network(True), x, backward=True) == 2
    with torch.no_grad():
        assert calls_of_a_block(network(True).eval(), x, backward=False) == 1


def test_streams_are_not_recomputed(events):
    """Membranes carried on would start the second run elsewhere."""
    model = network(True)
    model.carry_state = True
    assert calls_of_a_block(model, events(4, 1, 2, 32, 32), backward=True) == 1
