"""Rounded weights as an ordinary network: scored and priced as int8."""

import pytest
import torch

from models.energy import measure_energy
from models.export.quantise import quantise, rounded_network, rounded_twin
from models.export.trace import trace


def test_it_is_the_simulation_as_an_ordinary_network(sample, windows):
    x = torch.from_numpy(windows(1, 2, 32, 64)).transpose(0, 1).double()
    network = rounded_network(sample, (32, 64)).double()
    rounded = quantise(trace(sample, (32, 64)))
    twin = rounded_twin(sample, rounded).double()
    for ours, theirs in zip(network(x), twin(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)
    for name, layer in rounded.items():
        assert abs(layer.weight.astype(int)).max((1, 2, 3)).min() == 127
        error = network.get_parameter(f"{name}.weight") - sample.get_parameter(f"{name}.weight")
        assert (error.abs().amax((1, 2, 3)) <= 0.51 * torch.from_numpy(layer.scale)).all()


def test_equal_precision_is_priced(sample, windows):
    x = torch.from_numpy(windows(1, 2, 32, 64)).transpose(0, 1).float()
    report = measure_energy(rounded_network(sample, (32, 64)), [x], "int8")
    assert report.prices.name == "int8"
    assert 0 < report.snn_mj < 0.1 * measure_energy(sample, [x]).snn_mj


def test_real_values_have_no_int8(fires):
    with pytest.raises(ValueError, match=r"layer '.*' multiplies real values"):
        rounded_network(fires("ems-res10"), (32, 32))
