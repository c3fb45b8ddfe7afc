"""A network of normalised neurons (NI-LIF): deployed, it is an I-LIF network of integer counts."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from models import build_model
from models.blocks import Downsample, RepConv, SepConv, SepRepConv, SpikeConv
from models.deploy import deploy
from models.energy import measure_energy
from models.neuron import ILIFNode, neurons
from models.spike_driven import SpikeDrivenConv, spike_driven
from models.spikeyolo import SpikeYOLO


def network(**overrides) -> SpikeYOLO:
    settings = {"variant": "gen1", "activation": "nilif", **overrides}
    return build_model("spikeyolo-p", **settings)


def normalised(model: SpikeYOLO) -> SpikeYOLO:
    """An NI-LIF network with the outputs of an I-LIF one: D times the weights that read spikes."""
    D = model.config.max_spikes
    twin = network(max_spikes=D, time_steps=model.config.time_steps).double().eval()
    twin.load_state_dict(model.state_dict())
    weights = {
        SpikeConv: ["conv"],
        Downsample: ["conv"],
        SepConv: ["pointwise", "depthwise"],
        RepConv: ["pointwise_in"],
        SepRepConv: ["bn_pad.bn"],
    }
    for block in twin.modules():
        for name in weights.get(type(block), []) if block is not twin.down1 else []:
            block.get_submodule(name).weight.mul_(D)
            if isinstance(block, SepRepConv):
                block.bn_pad.bn.running_mean.div_(D)
    return twin


def close(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for mine, truth in zip(ours, theirs, strict=True):
        assert truth.abs().max() > 0.1
        torch.testing.assert_close(mine, truth, rtol=0, atol=1e-9)


def spikes_of(model: SpikeYOLO, x: Tensor) -> list[Tensor]:
    """What every neuron hands on."""
    fired: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, spikes: fired.append(spikes))
        for module in model.modules()
        if isinstance(module, ILIFNode)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return fired


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("max_spikes", [1, 2, 3, 4, 8])
def test_deployed_and_binary_networks_give_the_same_maps(lively, events, max_spikes):
    model = normalised(lively(network(activation="ilif", max_spikes=max_spikes)))
    deployed = deploy(model)
    binary = spike_driven(deployed)
    for time_steps in (1, 2, 4):
        x = events(time_steps, 1, 2, 32, 64)
        maps = model(x)
        close(deployed(x), maps)
        close(binary(x), maps)


@torch.no_grad()
def test_the_deployed_network_is_that_of_ilif(lively, events):
    ilif, x = lively(network(activation="ilif", max_spikes=3)), events(2, 1, 2, 32, 64)
    model = normalised(ilif)
    close(model(x), ilif(x))
    close(deploy(model)(x), ilif(x))


@torch.no_grad()
def test_deployed_neurons_send_the_integers_behind_the_levels(lively, events):
    model, x = normalised(lively(network(activation="ilif", max_spikes=3))), events(4, 1, 2, 32, 32)
    levels, counts = spikes_of(model, x), spikes_of(deploy(model), x)
    assert len(counts) == 88
    for level, count in zip(levels, counts, strict=True):
        torch.testing.assert_close(level * 3, count, rtol=0, atol=1e-9)
    assert set(torch.cat([count.flatten() for count in counts]).tolist()) == {0, 1, 2, 3}
    assert {node.spike_value for node in neurons(model).values()} == {1 / 3}


@torch.no_grad()
def test_the_binary_twin_reads_zeros_and_ones_alone(lively, events):
    twin = spike_driven(deploy(normalised(lively(network(activation="ilif", max_spikes=3)))))
    seen: list[float] = []
    for module in twin.modules():
        if isinstance(module, SpikeDrivenConv):
            module.conv.register_forward_hook(lambda _m, i, _o: seen.extend(i[0].unique().tolist()))
    twin(events(4, 1, 2, 32, 32))
    assert set(seen) == {0, 1}
    assert len(seen) > 88


@torch.no_grad()
def test_a_deployed_network_is_that_of_its_ilif_equal(lively):
    """Weights, and the configuration its weights belong to; deployed once or twice."""
    ilif = lively(network(activation="ilif"))
    once = deploy(normalised(ilif))
    assert once.config == ilif.config
    for deployed in (once, deploy(once)):
        for ours, theirs in zip(deployed.parameters(), deploy(ilif).parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@torch.no_grad()
def test_energy_counts_integers(lively, events):
    """The price, operations, spikes and rates of an I-LIF network that does the same."""
    ilif, batches = lively(network(activation="ilif", max_spikes=8)), [events(4, 2, 2, 32, 64)]
    truth, ours = measure_energy(ilif, batches), measure_energy(normalised(ilif), batches)
    assert ours.ac == truth.ac > 0
    assert ours.layers == truth.layers
    assert ours.firing_rate == truth.firing_rate
    assert max(layer.spikes_per_step or 0 for layer in ours.layers) > 1


@torch.no_grad()
def test_streams_carry_the_same_state(lively, events):
    model = normalised(lively(network(activation="ilif", time_steps=2)))
    deployed = deploy(model)
    model.carry_state = deployed.carry_state = True
    x = events(2, 1, 2, 32, 64)
    first = model(x)
    close(deployed(x), first)
    close(deployed(x), model(x))


@torch.no_grad()
def test_golden_fold(golden):
    """W S + b of normalised spikes is W / D over D binary slots, summed, + b."""
    file = golden("ems_yolo/nilif.npz")
    W, S, slots, bias, Y = (
        torch.tensor(file[f"fold/{key}"]) for key in ("W", "S", "spikes", "bias", "Y")
    )
    block = SpikeConv(partial(ILIFNode, len(slots), normalize=True), *W.T.shape, 1, bias=True)
    block = block.double()
    block.conv.weight.copy_(W[:, :, None, None])
    block.conv.bias.copy_(bias[:, 0])
    deployed = deploy(block)
    membrane = slots.sum(0)[None, None, :, :, None]
    for module in (block, deployed):
        torch.testing.assert_close(module(membrane)[0, 0, :, :, 0], Y, rtol=0, atol=1e-9)
    torch.testing.assert_close(block.neuron(membrane)[0, 0, :, :, 0], S, rtol=0, atol=1e-9)
    binary = SpikeDrivenConv(deployed.conv, len(slots))
    torch.testing.assert_close(binary(membrane[0])[0, :, :, 0], Y, rtol=0, atol=1e-9)


def test_a_neuron_of_unknown_synapses_is_refused():
    alone = nn.Sequential(ILIFNode(normalize=True), nn.Conv2d(1, 1, 1))
    with pytest.raises(ValueError, match="neuron '0' belongs to no known block"):
        deploy(alone)
