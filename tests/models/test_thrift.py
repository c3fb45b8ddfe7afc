"""The energy that a loss can lower is the energy that is reported."""

import pytest
import torch

from models import build_model
from models.energy import measure_energy
from models.neuron import neurons
from models.thrift import EnergyMeter

X = torch.poisson(torch.full((2, 3, 2, 64, 64), 0.3))


def network(name="spikeyolo-p", **settings):
    torch.manual_seed(0)
    return build_model(name, variant="gen1", time_steps=2, **{"activation": "ilif", **settings})


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("spikeyolo-p", {}),
        ("spikeyolo-p", {"activation": "nilif"}),
        ("spikeyolo-p", {"bins_per_step": 2}),
        ("spikeyolo-p", {"activation": "lif-soft"}),
        ("ems-res10", {}),
        ("ems-res10", {"activation": "lif-hard"}),
    ],
)
def test_it_is_the_reported_energy_of_accumulates(name, settings):
    """At the rate, as papers count: spikes at the border meet as many weights as others."""
    model = network(name, **settings).double()  # folding must not move a spike
    for neuron in neurons(model).values():
        neuron.decay = 0.9  # more spikes
    meter = EnergyMeter(model, X.double())
    model.eval()(X.double())
    share = meter.share()
    report = measure_energy(model, [X.double()])
    ac_pj = sum(layer.ac_at_rate for layer in report.layers) * 0.9
    assert ac_pj > 0
    assert share.item() == pytest.approx(ac_pj / (report.ann_mj * 1e9), rel=1e-5)


def test_its_gradient_silences_neurons():
    model = network()
    meter = EnergyMeter(model, X)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    shares = []
    for _ in range(4):
        model.train()(X)
        share = meter.share()
        shares.append(share.item())
        optimizer.zero_grad()
        share.backward()
        optimizer.step()
    assert shares[-1] < shares[0]


def test_a_network_without_spikes_is_refused():
    with pytest.raises(ValueError, match="activation 'relu' has no energy of spikes to learn"):
        EnergyMeter(network(activation="relu"), X)
