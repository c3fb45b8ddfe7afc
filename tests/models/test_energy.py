import itertools
import json
import math

import pytest
import torch
from torch import nn

from models import build_model
from models.authors import module_names
from models.deploy import deploy
from models.energy import PJ_PER_AC, PJ_PER_MAC, measure_energy
from models.spike_driven import spike_driven


def test_authors_spreadsheet_rows_and_totals(golden_json):
    """Every row with our two prices; its first-layer "rate" of 4.6 at 0.9 pJ is their slip."""
    sheet = golden_json("energy_sheet")
    macs = ann_pj = snn_pj = first_pj = 0.0
    for row in sheet["rows"]:
        outputs = row["cout"] * row["Hout"] * row["Wout"]
        row_macs = outputs * row["cin"] // row["groups"] * row["k"] ** 2
        assert row_macs == row["MACs"]
        assert row_macs * PJ_PER_MAC == pytest.approx(row["ANN_pJ"], rel=1e-12)
        accumulates = row_macs * row["firing_rate"]
        assert accumulates * PJ_PER_AC == pytest.approx(row["SNN_pJ"], rel=1e-12)
        macs, ann_pj = macs + row_macs, ann_pj + row_macs * PJ_PER_MAC
        first = row["sheet_layer_no"] == 1
        snn_pj += accumulates * PJ_PER_AC
        first_pj += row_macs * PJ_PER_MAC if first else accumulates * PJ_PER_AC
    totals = sheet["totals"]
    assert macs == totals["MACs"]
    assert ann_pj * 1e-9 == pytest.approx(totals["ANN_mJ"], rel=1e-12)
    assert snn_pj * 1e-9 == pytest.approx(totals["SNN_mJ"], rel=1e-12)
    assert first_pj * 1e-9 == pytest.approx(totals["SNN_mJ_if_first_layer_is_plain_4.6pJ_MAC"])


@pytest.fixture(scope="module")
def size_s_at_640():
    """The report of the authors' network; MACs grow with the area, so 64 px tell those of 640."""
    return measure_energy(build_model("spikeyolo-s"), [torch.rand(1, 1, 3, 64, 64)])


@pytest.mark.slow
def test_size_s_at_640_is_the_corrected_figure(size_s_at_640):
    assert size_s_at_640.ann_mac * 100 / 1e9 == pytest.approx(104.51, abs=0.005)
    assert size_s_at_640.ann_mj * 100 == pytest.approx(480.77, abs=0.005)


def test_layers_are_those_of_the_spreadsheet_but_for_its_slips(size_s_at_640, golden_json):
    """Layer by layer; one row has 20x20 for 40x40, layer 22 has expansion 2 for 3."""
    theirs = dict(module_names(build_model("spikeyolo-s")))
    ours = {}
    for layer in size_s_at_640.layers:
        block, _, part = layer.name.rpartition(".")
        neuron = {
            "pointwise": "neuron1", "depthwise": "neuron2", "rep": "neuron3",
            "conv1": "neuron1", "conv2": "neuron2", "conv": "neuron",
        }[part]  # fmt: skip
        ours[theirs[f"{block}.{neuron}"].removeprefix("model.")] = layer.macs_per_step * 100
    rows = {row["lif_name"]: row["MACs"] for row in golden_json("energy_sheet")["rows"]}
    rows["1.encode_lif"] = rows.pop("1.encode_conv(first layer, no LIF)")
    assert set(ours) == set(rows)
    different = {name: ours[name] / rows[name] for name in rows if ours[name] != rows[name]}
    assert different == {"12.Conv.lif3": 4, "22.lif1": 1.5, "22.lif2": 1.5}


def test_real_shapes_with_the_sheets_rates_give_the_corrected_energy(golden_json):
    rows = {row["lif_name"]: dict(row) for row in golden_json("energy_sheet")["rows"]}
    for name, factor in (("12.Conv.lif3", 4), ("22.lif1", 1.5), ("22.lif2", 1.5)):
        rows[name]["MACs"] *= factor
    first = rows.pop("1.encode_conv(first layer, no LIF)")
    spiking = sum(row["MACs"] * row["firing_rate"] for row in rows.values())
    total_mj = (first["MACs"] * PJ_PER_MAC + spiking * PJ_PER_AC) * 1e-9
    assert total_mj == pytest.approx(35.38, abs=0.005)


def quiet_network() -> nn.Module:
    """A network whose neurons all get a constant: only the head's last biases speak."""
    model = build_model("spikeyolo-p", variant="gen1", time_steps=2, max_spikes=2).double().eval()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def test_one_layer_by_hand():
    """The stem's bias sends a constant through the first neuron."""
    model = quiet_network()
    nn.init.constant_(model.down1.bn.bias, 2.0)  # X = 2: U = 1 -> 1; U = 0 + 1 -> 1, all pixels
    report = measure_energy(model, [torch.zeros(2, 3, 2, 32, 32).double()])
    layers = {layer.name: layer for layer in report.layers}

    stem = layers["down1.conv"]
    macs = 16 * 2 * 7 * 7 * 8 * 8  # 16 channels of 2 inputs, 8x8 px
    assert (stem.spikes_per_step, stem.firing_rate, stem.ac) == (None, None, 0)
    assert (stem.macs_per_step, stem.mac) == (macs, 2 * macs)
    assert stem.snn_pj == stem.ann_pj == pytest.approx(2 * macs * 4.6)

    first = layers["stage1.0.mixer.pointwise"]
    macs = 16 * 32 * 8 * 8
    assert (first.spikes_per_step, first.firing_rate) == (1.0, 0.5)
    assert (first.mac, first.ac) == (0, 2 * macs)
    assert first.snn_pj == pytest.approx(2 * macs * 0.9)
    assert first.ann_pj == pytest.approx(macs * 4.6)

    silent = layers["stage1.0.mixer.depthwise"]
    assert (silent.spikes_per_step, silent.ac, silent.snn_pj) == (0, 0, 0)
    assert silent.macs_per_step == 32 * 7 * 7 * 8 * 8
    assert (report.samples, report.time_steps, report.max_spikes) == (3, 2, 2)
    assert report.mac == stem.mac


@pytest.mark.slow
@torch.no_grad()
def test_batches_add_up_to_their_mean(lively, events):
    model = lively(build_model("spikeyolo-p", variant="gen1"))
    x = events(4, 3, 2, 32, 64)
    whole = measure_energy(model, [x])
    parts = measure_energy(model, [x[:, :1], x[:, 1:]])
    single = [measure_energy(model, [x[:, i : i + 1]]).ac for i in range(3)]
    assert parts.ac == pytest.approx(whole.ac)
    assert sum(single) / 3 == pytest.approx(whole.ac)
    assert whole.ac > 0
    assert len(whole.layers) == 89
    assert parts.samples == 3
    assert whole.ratio == pytest.approx(whole.ann_mj / whole.snn_mj)
    assert 0 < whole.firing_rate < 1


def test_spikes_weighted_firing_rate_and_json(lively, events):
    report = measure_energy(
        lively(build_model("spikeyolo-p", variant="gen1")), [events(4, 1, 2, 32, 32)]
    )
    spiking = [layer for layer in report.layers if layer.firing_rate is not None]
    macs = sum(layer.macs_per_step for layer in spiking)
    expected = sum(layer.spikes_per_step / 4 * layer.macs_per_step for layer in spiking) / macs
    assert report.firing_rate == pytest.approx(expected)
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["ac"] == report.ac
    assert plain["layers"][0]["name"] == "down1.conv"
    assert any("45 nm" in line for line in plain["assumptions"])


def test_ann_twin_is_all_mac_and_costs_the_ann_equivalent(lively, events):
    x = events(4, 1, 2, 32, 32)
    snn = measure_energy(lively(build_model("spikeyolo-p", variant="gen1")), [x])
    twin = lively(build_model("spikeyolo-p", variant="gen1", activation="relu"))
    ann = measure_energy(twin, [x])
    assert ann.ac == 0
    assert ann.ratio == 1
    assert ann.ann_mj == pytest.approx(snn.ann_mj)
    assert math.isnan(ann.firing_rate)
    assert ann.as_dict()["firing_rate"] is None


def test_an_unseen_weight_layer_is_an_error(lively, events):
    model = lively(build_model("spikeyolo-p", variant="gen1"))
    model.spare = nn.Conv2d(1, 1, 1).double()
    with pytest.raises(ValueError, match="layer 'spare' has weights but no batch reached it"):
        measure_energy(model, [events(4, 1, 2, 32, 32)])


def test_a_layer_without_a_price_is_an_error(lively, events):
    model = lively(build_model("spikeyolo-p", variant="gen1"))
    model.spare = nn.Linear(1, 1).double()
    with pytest.raises(ValueError, match="cannot price layer 'spare': Linear"):
        measure_energy(model, [events(4, 1, 2, 32, 32)])


def test_nothing_done_is_no_price():
    model = build_model("spikeyolo-p", variant="gen1")
    for name, parameter in model.named_parameters():
        parameter.data *= not name.endswith("bias")
    with pytest.raises(ValueError, match="did nothing on these batches: 0 pJ is no price"):
        measure_energy(model, [torch.zeros(4, 1, 2, 32, 32)], sparse_input=True)


def test_no_batches_is_an_error():
    with pytest.raises(ValueError, match="no batches"):
        measure_energy(build_model("spikeyolo-p"), [])


@pytest.mark.parametrize("activation", ["ilif", "relu"])
def test_another_t_than_the_model_s_is_an_error(lively, events, activation):
    """Spiking networks run with any T, but an inference is the one they were built for."""
    model = lively(build_model("spikeyolo-p", variant="gen1", activation=activation))
    with pytest.raises(ValueError, match=r"a batch has T=3 time steps, the model was .* T=4"):
        measure_energy(model, [events(t, 1, 2, 32, 32) for t in (4, 3)])


@pytest.mark.parametrize("activation", ["ilif", "lif"])
def test_neurons_of_another_d_than_the_configuration_s_are_an_error(lively, events, activation):
    model = lively(build_model("spikeyolo-p", variant="gen1", activation=activation))
    model.down2.neuron.max_spikes = 2
    expected = {"ilif": 4, "lif": 1}[activation]
    with pytest.raises(ValueError, match=rf"'down2\.neuron' has D=2, .* says D={expected}"):
        measure_energy(model, [events(4, 1, 2, 32, 32)])


def test_the_spike_driven_twin_is_not_priced_as_if_it_were_real_valued(lively, events):
    twin = spike_driven(deploy(lively(build_model("spikeyolo-p", variant="gen1"))))
    with pytest.raises(ValueError, match="expected a trained or a deployed network"):
        measure_energy(twin, [events(4, 1, 2, 32, 32)])


@torch.no_grad()
def test_trained_and_deployed_networks_cost_the_same(lively, events):
    model, x = lively(build_model("spikeyolo-p", variant="gen1")), [events(4, 1, 2, 32, 64)]
    whole, *others = (
        measure_energy(network, x, sparse_input=True) for network in (model, deploy(model))
    )
    assert whole.ac > 0
    for report in others:
        assert report.as_dict() == whole.as_dict()


def multiplied(stem: nn.Conv2d, x: torch.Tensor) -> int:
    """Every output of the stem, every weight: does it meet an input that is not 0?"""
    C, H, W = x.shape[-3:]
    (kernel, _), (stride, _), (padding, _) = stem.kernel_size, stem.stride, stem.padding
    places = [range((size + 2 * padding - kernel) // stride + 1) for size in (H, W)]
    met = 0
    for frame in x.flatten(0, 1):
        for row, column, i, j in itertools.product(*places, range(kernel), range(kernel)):
            y, z = row * stride - padding + i, column * stride - padding + j
            if 0 <= y < H and 0 <= z < W:
                met += int((frame[:, y, z] != 0).sum())
    assert stem.in_channels in (C, C * len(x))
    return met * stem.out_channels


@torch.no_grad()
@pytest.mark.parametrize("activation", ["ilif", "lif", "qann", "relu"])
def test_zeros_of_the_input_are_skipped_when_asked(lively, events, activation):
    model = build_model("spikeyolo-p", variant="gen1", time_steps=2, activation=activation)
    model, x = lively(model), events(2, 2, 2, 32, 32)
    dense = measure_energy(model, [x])
    sparse = measure_energy(model, [x[:, :1], x[:, 1:]], sparse_input=True)
    stem, *rest = sparse.layers
    assert stem.mac * 2 == multiplied(model.down1.conv, x)
    assert 0 < stem.mac < dense.layers[0].mac == 2 * 16 * 2 * 49 * 8 * 8
    assert stem.snn_pj == stem.ann_pj == stem.mac * PJ_PER_MAC
    for ours, theirs in zip(rest, dense.layers[1:], strict=True):
        assert (ours.mac, ours.ac, ours.ann_pj) == (theirs.mac, theirs.ac, theirs.ann_pj)
    saved_mj = (dense.layers[0].mac - stem.mac) * PJ_PER_MAC * 1e-9
    for figure in ("snn_mj", "ann_mj", "snn_mj_at_rate"):
        assert getattr(dense, figure) - getattr(sparse, figure) == pytest.approx(saved_mj)
    assert sparse.snn_mj_with_memory < dense.snn_mj_with_memory
    assert (sparse.sparse_input, dense.sparse_input) == (True, False)
    assert any("skips the others" in line for line in sparse.assumptions)
    assert not any("skips the others" in line for line in dense.assumptions)
