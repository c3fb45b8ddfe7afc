"""The binary twin: zeros and ones alone, the same result, and an outside count of its work."""

import pytest
import torch
from spikingjelly.activation_based.op_counter import ACCounter, DispatchCounterMode

from models import build_model
from models.deploy import deploy
from models.energy import PRICES, measure_energy
from models.operations import fan_out
from models.spike_driven import SpikeDrivenConv, spike_driven

CONVOLUTION = torch.ops.aten.convolution.default


@torch.no_grad()
@pytest.mark.parametrize("time_steps", [1, 2, 4])
@pytest.mark.parametrize("max_spikes", [1, 2, 4, 8])
def test_the_twin_equals_the_integer_network(lively, events, time_steps, max_spikes):
    model = build_model("spikeyolo-p", variant="gen1", time_steps=time_steps, max_spikes=max_spikes)
    deployed = deploy(lively(model))
    x = events(time_steps, 1, 2, 32, 64)
    for ours, integer in zip(spike_driven(deployed)(x), deployed(x), strict=True):
        torch.testing.assert_close(ours, integer, rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("activation", ["ilif", "lif"])
def test_convolutions_after_a_neuron_see_only_zeros_and_ones(lively, events, activation):
    model = build_model("spikeyolo-p", variant="gen1", max_spikes=3, activation=activation)
    twin = spike_driven(deploy(lively(model)))
    seen = []

    def binary(_module, inputs, _output):
        seen.append(bool(((inputs[0] == 0) | (inputs[0] == 1)).all()))

    for module in twin.modules():
        if isinstance(module, SpikeDrivenConv):
            module.conv.register_forward_hook(binary)
    twin(events(4, 1, 2, 32, 32))
    assert len(seen) == 88
    assert all(seen)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("activation", ["ilif", "nilif", "lif"])
def test_spikingjelly_counts_the_same_accumulates(lively, events, activation):
    model = lively(build_model("spikeyolo-p", variant="gen1", time_steps=2, activation=activation))
    x = events(2, 3, 2, 64, 32)
    report = measure_energy(model, [x])
    counter = ACCounter()
    counter.rules = {CONVOLUTION: counter.rules[CONVOLUTION]}
    stem_reads_counts = spike_driven(deploy(model))
    with DispatchCounterMode([counter]):
        stem_reads_counts(x + 1)  # no zeros and ones alone, or the stem would count as spiking
    report = measure_energy(model, [x + 1])
    assert report.ac * 3 == pytest.approx(counter.get_total(), rel=1e-12)
    assert report.ac > 0


def test_fan_out_counts_the_weights_a_spike_meets():
    plain = fan_out(torch.nn.Conv2d(2, 5, 3, padding=1), (4, 4))
    assert plain[1, 1] == 9 * 5
    assert plain[0, 0] == 4 * 5
    assert plain[0, 1] == 6 * 5
    strided = fan_out(torch.nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4), (4, 4))
    assert strided.tolist()[1] == [2, 4, 2, 2]


def test_values_that_are_no_counts_are_refused():
    conv = SpikeDrivenConv(torch.nn.Conv2d(1, 1, 1), max_spikes=2)
    for wrong in (0.5, 3.0, -1.0):
        with pytest.raises(ValueError, match=r"not made of integer counts in 0\.\.2"):
            conv(torch.full((1, 1, 2, 2), wrong))


def test_networks_without_a_binary_form_are_refused():
    model = build_model("spikeyolo-p", variant="gen1")
    with pytest.raises(ValueError, match=r"pass deploy\(model\)"):
        spike_driven(model)
    deployed = deploy(model)
    with pytest.raises(ValueError, match="the network is spike-driven already"):
        spike_driven(spike_driven(deployed))
    deployed.down2.neuron.max_spikes = 8
    with pytest.raises(ValueError, match=r"'down2\.neuron' has D=8, .* says D=4"):
        spike_driven(deployed)
    for activation in ("relu", "qann"):
        ann = deploy(build_model("spikeyolo-p", variant="gen1", activation=activation))
        with pytest.raises(ValueError, match=f"activation '{activation}' has no spike-driven"):
            spike_driven(ann)


@torch.no_grad()
def test_the_quantised_ann_has_levels_without_time(lively, events):
    model = lively(build_model("spikeyolo-p", variant="gen1", activation="qann", max_spikes=3))
    levels = []
    for module in model.modules():
        if type(module).__name__ == "ILIFNode":
            module.register_forward_hook(lambda m, i, o: levels.append(o))
    model(events(4, 1, 2, 32, 32))
    assert all(level.shape[0] == 1 for level in levels)
    assert set(torch.cat([level.flatten() for level in levels]).tolist()) == {0, 1, 2, 3}
    report = measure_energy(model, [events(4, 1, 2, 32, 32)])
    assert report.ac == 0
    assert report.ratio == 1
    assert 0 < report.firing_rate < 1


@torch.no_grad()
def test_the_binary_network_runs_as_many_slots(lively, events):
    model = lively(build_model("spikeyolo-p", variant="gen1", activation="lif", max_spikes=3))
    steps = []
    model.stage1[0].mixer.neuron1.register_forward_hook(lambda m, i, o: steps.append(o))
    model(events(2, 1, 2, 32, 32))
    assert steps[0].shape[0] == 6
    assert set(steps[0].unique().tolist()) <= {0, 1}


@torch.no_grad()
def test_precisions_change_the_price_alone(lively, events):
    model, x = lively(build_model("spikeyolo-p", variant="gen1")), [events(4, 1, 2, 32, 32)]
    fp32, int8 = measure_energy(model, x), measure_energy(model, x, "int8")
    assert (fp32.ac, fp32.mac) == (int8.ac, int8.mac)
    prices = PRICES["int8"]
    assert int8.snn_mj == pytest.approx((int8.mac * prices.mac_pj + int8.ac * prices.ac_pj) * 1e-9)
    assert fp32.snn_mj < fp32.snn_mj_at_rate
    assert fp32.snn_mj < fp32.snn_mj_with_memory
    with pytest.raises(ValueError, match="precision is 'fp8', expected one of fp32, fp16, int8"):
        measure_energy(model, x, "fp8")
