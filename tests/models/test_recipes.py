"""The recipe of CONTRIBUTING.md for a neuron: two files, and it learns, deploys and has a price."""

from typing import Literal

import pytest
import torch
from torch import nn

from models import build_model
from models.checkpoint import load_checkpoint, save_checkpoint
from models.deploy import deploy
from models.energy import measure_energy
from models.neuron import NEURONS, NeuronKind
from models.spike_driven import spike_driven
from models.spikeyolo import SpikeYOLOConfig


class Rounding(nn.Module):
    """A neuron of one's own: x rounded to 0..D, without a membrane."""

    repeats, spike_value, is_spiking = 1, 1.0, True

    def __init__(self, max_spikes):
        super().__init__()
        self.levels = max_spikes

    def forward(self, x):
        clipped = x.clamp(0, self.levels)
        return clipped + (clipped.round() - clipped).detach()


@pytest.fixture
def rounding(monkeypatch):
    """What its file would hold besides the class, and its name in the family."""
    kind = NeuronKind(lambda settings: Rounding(settings.max_spikes))
    monkeypatch.setitem(NEURONS, "rounding", kind)
    hints = SpikeYOLOConfig.__annotations__
    monkeypatch.setitem(hints, "activation", Literal[hints["activation"], "rounding"])
    return "rounding"


def test_a_neuron_learns_deploys_and_has_a_price(rounding, lively, events, tmp_path):
    model = build_model("spikeyolo-p", variant="gen1", time_steps=2, activation=rounding)
    targets = torch.tensor([[0, 1, 4.0, 4.0, 30.0, 28.0]])
    sum(model.criterion({})(model(events(2, 1, 2, 32, 64).float()), targets).values()).backward()
    assert all(p.grad is not None for p in model.parameters())

    model, x = lively(model), events(2, 1, 2, 32, 64)
    report = measure_energy(model, [x])
    assert report.ac > report.mac > 0
    assert 0 < report.firing_rate < 1
    for ours, binary in zip(model(x), spike_driven(deploy(model))(x), strict=True):
        torch.testing.assert_close(binary, ours, rtol=0, atol=1e-9)
    save_checkpoint(tmp_path / "a.pt", model.config, model.state_dict(), {})
    assert load_checkpoint(tmp_path / "a.pt").config == model.config
