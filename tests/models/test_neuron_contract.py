"""A neuron is what it says of itself: a foreign class is priced, deployed and counted as ours."""

from dataclasses import replace

import pytest
import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn

from models import build_model, resolve
from models.checkpoint import load_checkpoint, save_checkpoint
from models.deploy import deploy
from models.energy import measure_energy
from models.neuron import NEURONS, ILIFNode, neurons
from models.spike_driven import spike_driven


class Foreign(base.MemoryModule):
    """The numbers of `ILIFNode`, of another class."""

    def __init__(self, node: ILIFNode) -> None:
        super().__init__()
        self.step_mode = "m"
        self.node = [node]  # hidden from `modules()`
        self.levels, self.repeats = node.levels, node.repeats
        self.is_spiking, self.spike_value = node.is_spiking, node.spike_value

    def multi_step_forward(self, x: Tensor) -> Tensor:
        self.node[0].reset()
        return (self.node[0](x) / self.node[0].spike_value).round() * self.spike_value


class Plain(nn.Module):
    """The same numbers, saying nothing; with or without a membrane."""

    def __init__(self, node: ILIFNode) -> None:
        super().__init__()
        self.node = [node]

    def forward(self, x: Tensor) -> Tensor:
        self.node[0].reset()
        return self.node[0](x)


class Silent(base.MemoryModule):
    def __init__(self, _node: ILIFNode) -> None:
        super().__init__()
        self.step_mode = "m"

    multi_step_forward = torch.relu


def with_neurons(model: nn.Module, kind: type[nn.Module]) -> nn.Module:
    for name in neurons(model):
        parent, _, child = name.rpartition(".")
        block = model.get_submodule(parent)
        setattr(block, child, kind(getattr(block, child)))
    return model


NETWORKS = [
    ("spikeyolo-p", "ilif"), ("spikeyolo-p", "nilif"), ("spikeyolo-p", "lif-soft"),
    ("spikeyolo-p", "qann"), ("ems-res10", "lif-hard"), ("ems-res10", "nilif"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "activation"), NETWORKS)
@torch.no_grad()
def test_a_foreign_node_of_the_same_numbers_costs_the_same(lively, events, name, activation):
    torch.manual_seed(0)
    model = lively(build_model(name, variant="gen1", time_steps=2, activation=activation))
    x = events(2, 1, 2, 32, 64)
    ours, maps = measure_energy(model, [x]), model(x)
    foreign = with_neurons(model, Foreign)
    assert measure_energy(foreign, [x]).as_dict() == ours.as_dict()
    deployed = deploy(foreign)
    twins = [deployed, *([spike_driven(deployed)] if model.config.is_spiking else [])]
    for twin in twins:
        for theirs, map_ in zip(twin(x), maps, strict=True):
            torch.testing.assert_close(theirs, map_, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Plain, r"spikes \(activation 'ilif'\), but no layer was seen to read spikes: expected ne"),
        (Silent, r"neuron 'down2\.neuron' is a Silent, which does not say what it fires"),
    ],
)
def test_neurons_that_do_not_say_what_they_are_have_no_price(lively, events, kind, message):
    model = with_neurons(lively(build_model("spikeyolo-p", variant="gen1")), kind)
    if kind is Silent:  # one among others is enough
        model = lively(build_model("spikeyolo-p", variant="gen1"))
        model.down2.neuron = Silent(model.down2.neuron)
    with pytest.raises(ValueError, match=message):
        measure_energy(model, [events(4, 1, 2, 32, 32)])


@pytest.mark.parametrize(
    ("name", "neuron"), [("spikeyolo-p", "lif-soft"), ("ems-res10", "lif-hard")]
)
def test_each_lif_has_its_name_and_the_old_one_is_read(tmp_path, name, neuron):
    config = resolve(name, activation="lif")
    assert config.activation == neuron in NEURONS
    assert config == resolve(name, activation=neuron)
    model = build_model(name, variant="gen1", activation=neuron)
    old = replace(model.config)
    object.__setattr__(old, "activation", "lif")
    save_checkpoint(tmp_path / "old.pt", old, model.state_dict(), {})
    assert load_checkpoint(tmp_path / "old.pt").config == model.config
