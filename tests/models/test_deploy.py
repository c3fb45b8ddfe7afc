import copy

import pytest
import torch
from torch import nn

from models import build_model
from models.blocks import BNAndPad, RepConv, SepRepConv
from models.deploy import deploy, fused
from models.spike_driven import spike_driven


@torch.no_grad()
@pytest.mark.parametrize("activation", ["ilif", "relu"])
@pytest.mark.parametrize("name", ["spikeyolo-p", "spikeyolo-n"])
def test_deployed_network_gives_the_same_maps(lively, events, name, activation):
    model = lively(build_model(name, variant="gen1", activation=activation))
    x = events(4, 2, 2, 64, 64)
    for deployed, trained in zip(deploy(model)(x), model(x), strict=True):
        assert trained.abs().max() > 0.1
        torch.testing.assert_close(deployed, trained, rtol=0, atol=1e-9)


def test_deployed_network_is_plain_convolutions(lively):
    deployed = deploy(lively(build_model("spikeyolo-p", variant="gen1")))
    owners = [m for m in deployed.modules() if [*m.parameters(recurse=False)]]
    assert {type(module) for module in owners} == {nn.Conv2d}
    assert all(conv.bias is not None for conv in owners)
    assert not deployed.training
    assert not any(parameter.requires_grad for parameter in deployed.parameters())


@torch.no_grad()
def test_the_model_is_not_modified():
    model = build_model("spikeyolo-p", variant="gen1").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    deployed = deploy(model)
    nn.init.zeros_(deployed.down1.conv.weight)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert {*before} == {*model.state_dict()}
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name]), name


@torch.no_grad()
def test_deploying_twice_changes_nothing(lively):
    once = deploy(lively(build_model("spikeyolo-p", variant="gen1")).float())
    twice = deploy(once)
    assert next(twice.parameters()).dtype == torch.float32
    for (name, a), b in zip(once.state_dict().items(), twice.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@torch.no_grad()
@pytest.mark.parametrize("kind", [RepConv, SepRepConv])
def test_borders_survive_the_collapse(lively, kind):
    """Where the padding matters most: a map of 2x2 is all border."""
    torch.manual_seed(0)
    rep = lively(kind(4, 6))
    assert rep.bn_pad.border().abs().min() > 1e-3
    dense = fused(rep, nn.Identity())
    assert (dense.kernel_size, dense.padding, dense.groups) == ((3, 3), (1, 1), 1)
    for size in (1, 2, 7):
        x = torch.randn(3, 4, size, size, dtype=torch.float64)
        torch.testing.assert_close(dense(x), rep(x), rtol=0, atol=1e-12)


def test_an_unknown_batch_norm_is_refused():
    with pytest.raises(ValueError, match="batch norm 'bn' belongs to no known block"):
        deploy(BNAndPad(3))


def test_an_unknown_convolution_is_refused():
    with pytest.raises(ValueError, match="cannot fold a Linear"):
        fused(nn.Linear(2, 2), nn.Identity())
    with pytest.raises(ValueError, match="cannot fold a GroupNorm"):
        fused(nn.Conv2d(2, 2, 1), nn.GroupNorm(1, 2))


@torch.no_grad()
def test_batch_norms_synchronised_over_ranks_fold_as_well(lively):
    model = lively(build_model("spikeyolo-p", variant="gen1", time_steps=1))
    together = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    for ours, theirs in zip(deploy(together).parameters(), deploy(model).parameters(), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match=r"pass deploy\(model\)"):
        spike_driven(together)
