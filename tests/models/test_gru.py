"""The ANN twin's memory: its equations, its state, its price."""

import pytest
import torch

from models import build_model, resolve
from models.deploy import deploy
from models.energy import measure_energy
from models.export.trace import trace
from models.memory.carried import begin_clips, put_back, state_of
from models.memory.gru import ConvGRU
from tests.models.conftest import randomise_batch_norms
from tests.models.test_memory import left_half

T = 2


def network(memory="gru", **settings):
    torch.manual_seed(0)
    options = {"variant": "gen1", "time_steps": T, "activation": "relu", "memory": memory}
    return build_model("spikeyolo-p", **{**options, **settings})


@torch.no_grad()
@pytest.mark.parametrize("kernel", [1, 3])
def test_it_is_what_its_equations_say(kernel):
    torch.manual_seed(0)
    block = ConvGRU(5, resolve("spikeyolo-p", memory_kernel=kernel), 8).double()
    torch.nn.init.normal_(block.readout.weight)
    x = torch.randn(2, 1, 2, 5, 4, 8, dtype=torch.double)  # two windows
    h, held = torch.zeros_like(x[0, 0]), x[0, 0]
    expected = []
    for window in x:
        now = window[0]
        update, reset = torch.sigmoid(block.gates(torch.cat([now, h], 1))).split(5, dim=1)
        new = torch.tanh(block.candidate(torch.cat([now, reset * h], 1)))
        h = (1 - update) * h + update * new
        held = torch.cat([now[..., :5], held[..., 5:]], dim=-1)  # the left is heard, later all
        expected.append(held + block.readout(h))
    for window, wanted in zip(x, expected, strict=True):
        torch.testing.assert_close(block(window, left_half()), wanted[None])
    torch.testing.assert_close(block.h, h)
    with pytest.raises(ValueError, match=r"carried state has shape .* call reset\(\) before"):
        block(x[0, :, :1], left_half(batch=1))
    block.reset()
    block.keep_state = False
    block(x[0], left_half())
    assert block.h is None
    assert block.held is None


@torch.no_grad()
def test_it_begins_as_the_network_without_it_and_repeats(events):
    plain, ours = network("none").double().eval(), network().double().eval()
    x = 9 + events(T, 1, 2, 32, 32)
    assert all(map(torch.equal, ours(x), plain(x)))
    ours.carry_state = True
    for window in (x, 0 * x, 0 * x):
        assert all(map(torch.equal, ours(window), plain(x)))


@torch.no_grad()
def test_deployed_it_is_the_same_and_remembers(lively, events):
    model = lively(network(memory_kernel=3))
    deployed = deploy(model)
    windows = [events(T, 1, 2, 32, 64, seed=k) for k in range(3)]
    from_rest = [deployed(x) for x in windows]
    for net in (model, deployed):
        net.carry_state = True
    for k, x in enumerate(windows):
        carried = deployed(x)
        for ours, folded in zip(model(x), carried, strict=True):
            torch.testing.assert_close(folded, ours, rtol=0, atol=1e-9)
        assert torch.equal(carried[0], from_rest[k][0]) == (k == 0)


@torch.no_grad()
def test_every_multiplication_has_its_price(lively, events):
    model, plain = lively(network()), lively(network("none"))
    x = events(T, 2, 2, 32, 64)
    ours, theirs = measure_energy(model, [x]), measure_energy(plain, [x])
    more = 0
    for stride, memory in zip((8, 16, 32), model.memory, strict=True):
        c = memory.readout.out_channels
        px = (32 // stride) * (64 // stride)
        more += px * (2 * c * 2 * c + 2 * c * c + c * c + c + c)  # gates, candidate, read-out
        more += T * 2 * 32 * 64  # events into cells
    mac = sum(layer.mac for layer in ours.layers) - sum(layer.mac for layer in theirs.layers)
    assert mac == pytest.approx(more, rel=1e-12)
    assert ours.snn_mj == ours.ann_mj


def test_its_state_is_cut_cleared_kept_and_put_back(events):
    model = network().double().train()
    randomise_batch_norms(model)
    model.carry_state = True
    x = events(T, 2, 2, 64, 64)
    for memory in model.memory:
        torch.nn.init.normal_(memory.readout.weight)
    model(x)
    state = state_of(model)
    assert sorted(state) == [f"memory.{k}.{name}" for k in range(3) for name in ("h", "held")]
    begin_clips(model, torch.tensor([True, False]))
    for k, memory in enumerate(model.memory):
        assert not memory.h.requires_grad
        assert memory.h[0].abs().sum() == 0
        assert torch.equal(memory.h[1], state[f"memory.{k}.h"][1])
    put_back(model, state, torch.device("cpu"))
    assert torch.equal(model.memory[0].h, state["memory.0.h"])
    sum(m.square().mean() for m in model(x)).backward()
    for name, parameter in model.memory.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_what_it_cannot_do_is_refused(lively):
    with pytest.raises(ValueError, match="memory is 'gru' with activation 'ilif', expected relu"):
        resolve("spikeyolo-p", memory="gru", activation="ilif")
    with pytest.raises(ValueError, match="cannot export: "):
        trace(deploy(lively(network())), (32, 32))
