"""The spiking memory: its equations, its state, and the same rules as for every other spike."""

import pytest
import torch
from torch import nn

from models import build_model, resolve
from models.checkpoint import load_checkpoint, load_model, save_checkpoint
from models.deploy import deploy
from models.energy import PJ_PER_AC, measure_energy
from models.memory import LearntNode, Memory
from models.memory.heard import Heard
from models.neuron import ILIFNode
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
    """One of D = 4, stride 8, whose convolutions have learnt something."""
    torch.manual_seed(0)
    block = Memory(lambda: ILIFNode(4, 0.5), 6, resolve("spikeyolo-p", memory_kernel=3), 8)
    for conv in (block.recurrent, block.readout):
        nn.init.normal_(conv.weight, std=0.3)
    return block.double().eval()


def left_half(times=1.0, batch=2):
    """Events of a window in the left 32 px of 64, 6 a px: left_half() -> [2, B, 2, 32, 64]."""
    x = torch.zeros(2, batch, 2, 32, 64, dtype=torch.double)
    x[..., :32] = 1.5 * times
    return x


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


def test_a_cell_is_heard_where_events_come_and_beside():
    heard = Heard(8, 4.0)
    held = torch.ones(2, 3, 4, 8)
    held[1] = 0  # at rest: heard everywhere
    cells = heard(left_half(), held)
    assert cells.shape == (2, 1, 4, 8)
    assert cells[0, 0].all(0).tolist() == [True] * 5 + [False] * 3
    assert cells[1].all()
    assert heard(left_half(), None).all()
    assert not heard(left_half(4 / 6), held)[0].any()  # 4 a px are no more than 4


@torch.no_grad()
def test_the_memory_is_what_its_equations_say(memory):
    x = torch.randn(3, 3, 2, 6, 4, 8, dtype=torch.double) * 2  # three windows of three steps
    counts = [ILIFNode(4, 0.5)(window) for window in x]
    memory.neuron.keep_state, memory.read.keep_state = True, False
    assert torch.equal(memory(x[0], left_half()), x[0])  # at rest
    decay = memory.neuron.decay[:, None, None]
    v, feedback = counts[0], torch.zeros_like(x[0])
    for k in (1, 2):
        heard = slice(0, 5) if k == 1 else slice(0, 0)
        shown = memory(x[k], left_half(2 - k))
        for t in range(3):  # each has a membrane
            u = decay * v[t] + feedback[t]
            count = u.clamp(0, 4).round()
            count[..., heard] = 0
            v[t] = u - count
            v[t][..., heard] = counts[k][t][..., heard]
            expected = memory.readout(count)
            expected[..., heard] = x[k, t][..., heard]
            torch.testing.assert_close(shown[t], expected)
            feedback[t] = memory.recurrent(count)
        torch.testing.assert_close(memory.neuron.v, v.transpose(0, 1))
    assert memory.neuron.decay.min() > 0.98
    with pytest.raises(ValueError, match=r"carried state has shape .* call reset\(\) before"):
        memory(x[0, :, :1], left_half(batch=1))


@torch.no_grad()
def test_without_carried_state_every_window_is_at_rest(memory):
    x = torch.randn(2, 2, 6, 4, 8, dtype=torch.double)
    memory.neuron.keep_state = memory.read.keep_state = False
    assert torch.equal(memory(x, left_half()), x)
    assert torch.equal(memory(x, 0 * left_half()), x)
    assert memory.neuron.v is None
    assert memory.neuron.feedback is None


@torch.no_grad()
@pytest.mark.parametrize("settings", [
    {}, {"bins_per_step": 1}, {"bins_per_step": T, "shown": 3},
    {"activation": "nilif", "input_scale": 8.0}, {"max_spikes": 16, "input_scale": 4.0},
])  # fmt: skip
def test_before_it_learns_it_repeats_what_it_heard(lively, events, settings):
    model = lively(network(**settings))
    plain = lively(network("none", **settings))
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "memory" not in k})
    model.carry_state = True
    x, nothing = 9 * torch.ones(T, 1, 2, 32, 64).double(), torch.zeros(T, 1, 2, 32, 64).double()
    x[..., 20:] = events(T, 1, 2, 32, 44)
    expected = plain(x)
    for window in (x, nothing, nothing):
        for ours, theirs in zip(model(window), expected, strict=True):
            assert torch.equal(ours, theirs)
    assert not torch.equal(plain(nothing)[0], expected[0])


@torch.no_grad()
@pytest.mark.parametrize("settings", [
    {"memory_kernel": 1}, {"memory_kernel": 3}, {"activation": "nilif"}, {"memory": "leaky"},
])  # fmt: skip
def test_deployed_and_binary_they_are_the_same(lively, events, settings):
    model = lively(network(**settings))
    deployed = deploy(model)
    twin = spike_driven(deployed)
    windows = [events(T, 1, 2, 32, 64, seed=k) for k in range(3)]
    windows[1:2] = [left_half(batch=1), 0 * windows[0]]
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
    model, first = lively(network()), events(T, 2, 2, 32, 64)
    model.carry_state = True
    report = measure_energy(model, [[first, left_half()]])
    by_name = {layer.name: layer for layer in report.layers}
    fired: dict[str, float] = {}
    deployed = deploy(model)
    for k, memory in enumerate(deployed.memory):
        memory.neuron.register_forward_hook(
            lambda _n, _x, y, k=k: fired.update({k: fired.get(k, 0.0) + y.sum().item()})
        )
    deployed(first)
    assert sum(fired.values()) == 0  # everything is heard
    deployed(left_half())
    assert fired[0] > 0
    for k, memory in enumerate(deployed.memory):
        for part in ("recurrent", "readout"):
            layer = by_name[f"memory.{k}.{part}"]
            assert layer.mac == 0
            assert layer.ac == pytest.approx(fired[k] * memory.recurrent.out_channels / 4)
        events_added = (first.sum() + left_half().sum()).item() / 4
        assert by_name[f"memory.{k}.heard"].ac == pytest.approx(events_added)


def test_every_part_of_a_memory_learns(events):
    model = network(memory_kernel=3).double().train()
    randomise_batch_norms(model)
    model.carry_state = True
    model(9 + events(T, 2, 2, 64, 64))
    model(torch.zeros(T, 2, 2, 64, 64).double())
    maps = model(torch.zeros(T, 2, 2, 64, 64).double())
    sum(m.square().mean() for m in maps).backward()
    for name, parameter in model.memory.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_energy_to_learn_counts_a_memory(lively, events):
    model, x = lively(network()), events(T, 1, 2, 32, 64)
    meter = EnergyMeter(model, x)
    model.carry_state = True
    model(x)
    assert meter.share().item() > 0
    spikes = []
    for memory in model.memory:
        memory.neuron.register_forward_hook(lambda _n, _x, y: spikes.append(y.sum().item()))
    x = 0 * x
    model(x)
    of_memory = meter._spent["memory.0.neuron"].item()
    assert spikes[0] > 0
    synapses = 2 * model.memory[0].readout.out_channels  # read-out and recurrent, 1x1
    assert of_memory == pytest.approx(spikes[0] * synapses * PJ_PER_AC)


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
    ({"memory_events": -1.0}, "memory_events is -1.0, expected 0 or more"),
])  # fmt: skip
def test_impossible_memories_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        resolve("spikeyolo-p", **{"memory": "spiking", **settings})
