"""The spiking memory: its equations, its state, and the same rules as for every other spike."""

import pytest
import torch

from models import build_model, resolve
from models.checkpoint import load_checkpoint, load_model, save_checkpoint
from models.deploy import deploy
from models.energy import measure_energy
from models.memory import LearntNode, Memory
from models.neuron import ILIFNode, neurons
from models.spike_driven import SpikeDrivenConv, spike_driven
from models.start import start_from
from models.thrift import EnergyMeter
from tests.models.conftest import randomise_batch_norms

T = 2


def network(memory="spiking", **settings):
    torch.manual_seed(0)
    options = {"variant": "gen1", "time_steps": T, "memory": memory, **settings}
    return build_model("spikeyolo-p", **options)


@pytest.fixture
def memory():
    torch.manual_seed(0)
    block = Memory(lambda: ILIFNode(4, 0.5), 6, 4, kernel=3)
    randomise_batch_norms(block)
    return block.double().eval()


def test_a_learnt_node_of_a_fixed_decay_is_the_integer_neuron():
    x = torch.randn(5, 2, 3, 4, 4, dtype=torch.double) * 3
    ours, theirs = LearntNode(4, torch.tensor(0.3), 0.5).double(), ILIFNode(4, 0.3, 0.5)
    theirs.decay = ours.decay.item()
    gradients = []
    for node in (ours, theirs):
        y = x.clone().requires_grad_()
        counts = node(y)
        (counts * torch.arange(5.0)[:, None, None, None, None]).sum().backward()
        gradients.append(y.grad)
    assert torch.equal(ours(x), theirs(x))
    torch.testing.assert_close(*gradients)
    assert ours.decay_logit.grad.abs() > 0


@torch.no_grad()
def test_the_memory_is_what_its_equations_say(memory):
    x = torch.randn(3, 2, 6, 4, 4, dtype=torch.double) * 2
    drive = memory.write(x)
    memory.write.neuron.reset()
    v = torch.zeros_like(x[0])
    feedback = torch.zeros_like(x[0])
    decay = memory.neuron.decay[:, None, None]
    expected = []
    for t in range(3):
        u = decay * v + drive[t] + feedback
        count = u.clamp(0, 4).round()
        v, feedback = u - count, memory.recurrent(count)
        expected.append(x[t] + memory.bn(memory.readout(count)))
    torch.testing.assert_close(memory(x), torch.stack(expected), rtol=0, atol=1e-12)
    assert 0.95 < memory.neuron.decay.max() < 1
    assert memory.neuron.decay.min() > 0.7


@torch.no_grad()
def test_carried_state_makes_two_calls_one(memory):
    x = torch.randn(4, 2, 6, 4, 4, dtype=torch.double) * 2
    for module in (memory.neuron, memory.write.neuron):
        module.keep_state = True
    whole = memory(x)
    for module in (memory.neuron, memory.write.neuron):
        module.reset()
    parts = torch.cat([memory(x[:1]), memory(x[1:])])
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"carried state has shape .* call reset\(\) before"):
        memory(x[:, :1])
    memory.neuron.keep_state = False
    memory.neuron.reset()
    memory.write.neuron.reset()
    first = memory(x)
    memory.write.neuron.reset()
    assert torch.equal(memory(x), first)
    assert memory.neuron.v is None


@torch.no_grad()
def test_it_begins_as_the_network_without_it(events):
    plain, ours = network("none").double().eval(), network().double().eval()
    x = events(T, 1, 2, 32, 32)
    for a, b in zip(ours(x), plain(x), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
@pytest.mark.parametrize("settings", [
    {"memory_kernel": 1}, {"memory_kernel": 3}, {"activation": "nilif"}, {"memory": "leaky"},
])  # fmt: skip
def test_deployed_and_binary_they_are_the_same(lively, events, settings):
    model = lively(network(**settings))
    deployed = deploy(model)
    twin = spike_driven(deployed)
    windows = [events(T, 1, 2, 32, 64, seed=k) for k in range(3)]
    for net in (model, deployed, twin):
        net.carry_state = True
    for x in windows:
        for ours, folded, binary in zip(model(x), deployed(x), twin(x), strict=True):
            torch.testing.assert_close(folded, ours, rtol=0, atol=1e-9)
            torch.testing.assert_close(binary, folded, rtol=0, atol=1e-9)
    if model.memory:
        recurrent = [twin.memory[k].recurrent for k in range(3)]
        assert all(isinstance(conv, SpikeDrivenConv) for conv in recurrent)
        assert all(memory.neuron.v is not None for memory in model.memory)


@torch.no_grad()
def test_energy_counts_recurrent_synapses_as_spikes(lively, events):
    model, x = lively(network()), events(T, 2, 2, 32, 32)
    report = measure_energy(model, [x])
    by_name = {layer.name: layer for layer in report.layers}
    seen = []
    deployed = deploy(model)
    for memory in deployed.memory:
        memory.neuron.register_forward_hook(lambda _n, _x, y: seen.append(y.sum().item()))
    deployed(x)
    for k in range(3):
        width = deployed.memory[k].recurrent.out_channels
        for part in ("recurrent", "readout"):
            layer = by_name[f"memory.{k}.{part}"]
            assert layer.mac == 0
            assert layer.ac == pytest.approx(sum(seen[T * k : T * (k + 1)]) * width / 2)
    assert by_name["memory.0.recurrent"].ac > 0
    assert by_name["memory.0.write.conv"].mac == 0


def test_every_part_of_a_memory_learns(events):
    model = network().double().train()
    randomise_batch_norms(model)
    sum(m.square().mean() for m in model(events(T, 2, 2, 64, 64))).backward()
    for name, parameter in model.memory.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_energy_to_learn_counts_every_step_of_a_memory(events):
    model, x = network().double(), events(T, 1, 2, 32, 32)
    randomise_batch_norms(model)
    model.eval()
    meter = EnergyMeter(model, x)
    model(x)
    first = meter.share().item()
    model(x)
    model(x)
    assert meter.share().item() == pytest.approx(first, rel=1e-12)
    spikes = []
    for neuron in neurons(model).values():
        neuron.register_forward_hook(lambda _n, _x, y: spikes.append(y.shape[0]))
    model(x)
    assert spikes.count(1) == 3 * T


def test_a_checkpoint_holds_it_trained_and_deployed(tmp_path, lively, events):
    model, x = lively(network()), events(T, 1, 2, 32, 32)
    save_checkpoint(tmp_path / "a.pt", model.config, model.state_dict(), {})
    deployed = deploy(model)
    save_checkpoint(tmp_path / "b.pt", model.config, deployed.state_dict(), {}, kind="deployed")
    for path, net in ((tmp_path / "a.pt", model), (tmp_path / "b.pt", deployed)):
        loaded = load_model(path)[0].double()
        assert loaded.config.memory == "spiking"
        assert loaded.load_state_dict(net.state_dict())
        assert all(map(torch.equal, loaded(x), net(x)))


@pytest.mark.parametrize("memory", ["spiking", "leaky"])
def test_it_may_begin_with_a_network_without_memory(tmp_path, memory):
    plain, model = network("none"), network(memory)
    save_checkpoint(tmp_path / "plain.pt", plain.config, plain.state_dict(), {})
    start = start_from(model, load_checkpoint(tmp_path / "plain.pt"), "plain.pt")
    assert start.anew
    assert all("memory." in name or "decay_logit" in name for name in start.anew)


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"activation": "relu"}, "memory is 'spiking' with activation 'relu', expected ilif or nilif"),
    ({"memory": "leaky", "activation": "nilif"}, "memory is 'leaky' with .* expected ilif"),
    ({"memory_kernel": 2}, "memory_kernel is 2, expected 1 or 3"),
    ({"memory": "lstm"}, "memory is 'lstm'"),
])  # fmt: skip
def test_impossible_memories_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        resolve("spikeyolo-p", **{"memory": "spiking", **settings})
