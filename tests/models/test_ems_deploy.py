"""EMS-YOLO deployed, spike-driven, priced and kept in a file, as SpikeYOLO is."""

from functools import partial

import pytest
import torch
from torch import nn

from models import build_model
from models.checkpoint import load_model, save_checkpoint
from models.deploy import deploy
from models.energy import measure_energy
from models.spike_driven import SpikeDrivenConv, spike_driven

close = partial(torch.testing.assert_close, rtol=0, atol=1e-9)
SETTINGS = [
    {"name": "ems-res18", "activation": "lif"},
    {"name": "ems-res10", "activation": "ilif", "max_spikes": 2},
    {"name": "ems-res10", "activation": "nilif"},
    {"name": "ems-resnet10-cat", "activation": "lif"},
]


def network(lively, **settings) -> nn.Module:
    torch.manual_seed(0)
    return lively(build_model(**{"variant": "gen1", "time_steps": 2, **settings}))


@pytest.mark.parametrize("settings", SETTINGS)
@torch.no_grad()
def test_deployed_and_spike_driven_twins_are_equal(lively, events, settings):
    model, x = network(lively, **settings), events(2, 1, 2, 32, 64)
    deployed = deploy(model)
    twin = spike_driven(deployed)
    for ours, *others in zip(model(x), deployed(x), twin(x), strict=True):
        assert ours.abs().max() > 0.1
        for theirs in others:
            close(theirs, ours)
    of_spikes = [name for name, m in twin.named_modules() if isinstance(m, SpikeDrivenConv)]
    real = {n for n, m in twin.named_modules() if isinstance(m, nn.Conv2d)} - {
        f"{name}.conv" for name in of_spikes
    }
    assert len(of_spikes) == sum("neuron" in name for name, _ in model.named_modules())
    shortcuts = {f"{block}.shortcut.conv.conv" for block in ("neck", "lateral", "out4")}
    outputs = {"out5.conv", "out4.conv"}
    is_ee = model.config.layout.out5.kind != "conv"
    assert real - {"stem.conv", "head.convs.0", "head.convs.1"} == (shortcuts if is_ee else outputs)


def test_the_ann_twin_deploys_and_is_all_mac(lively, events):
    x = events(2, 1, 2, 32, 32)
    twin = network(lively, name="ems-res10", activation="relu")
    for ours, folded in zip(twin(x), deploy(twin)(x), strict=True):
        close(folded, ours)
    ann, snn = (measure_energy(m, [x]) for m in (twin, network(lively, name="ems-res10")))
    assert ann.ac == 0
    assert ann.ratio == 1
    assert ann.ann_mj == pytest.approx(snn.ann_mj)


@torch.no_grad()
def test_energy_by_hand_and_by_kind_of_input(lively, events):
    """Spikes accumulate; stem, MS shortcuts and head multiply real values in every step."""
    model, x = network(lively, name="ems-res10"), events(2, 3, 2, 32, 64)
    report = measure_energy(model, [x[:, :1], x[:, 1:]])
    layers = {layer.name: layer for layer in report.layers}
    stem, shortcut, head = layers["stem.conv"], layers["neck.shortcut.conv.conv"], "head.convs.0"
    assert stem.mac == 2 * 32 * 2 * 9 * 16 * 32
    assert shortcut.mac == 2 * 512 * 256 * 1 * 2
    assert layers[head].mac == 2 * 256 * 21 * 2 * 4
    assert shortcut.ann_pj * 2 == shortcut.snn_pj  # the ANN runs it once, not in both steps
    spiking = {name for name, layer in layers.items() if layer.firing_rate is not None}
    assert len(spiking) == 21
    assert sum(layer.mac for name, layer in layers.items() if name in spiking) == 0
    seen = []
    node = deploy(model)
    node.stage1[0].conv1.neuron.register_forward_hook(lambda _m, _x, out: seen.append(out))
    node(x)
    assert layers["stage1.0.conv1.conv"].spikes_per_step == pytest.approx(seen[0].mean().item())
    assert layers["stage1.0.conv1.conv"].firing_rate <= 1
    assert (report.time_steps, report.max_spikes) == (2, 1)


@pytest.mark.parametrize("kind", ["trained", "deployed"])
@torch.no_grad()
def test_a_checkpoint_gives_the_same_network_back(lively, events, tmp_path, kind):
    model = network(lively, name="ems-res10", anchors=((9.0, 9.0), (50.0, 40.0))).float()
    saved = deploy(model) if kind == "deployed" else model
    save_checkpoint(tmp_path / "a.pt", saved.config, saved.state_dict(), {}, kind=kind)
    loaded, checkpoint = load_model(tmp_path / "a.pt")
    assert checkpoint.config == model.config
    x = events(2, 1, 2, 32, 32).float()
    for ours, theirs in zip(saved(x), loaded(x), strict=True):
        assert torch.equal(ours, theirs)


def test_a_file_of_an_unknown_family_is_refused(tmp_path):
    model = build_model("spikeyolo-p")
    save_checkpoint(tmp_path / "a.pt", model.config, model.state_dict(), {})
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save({**content, "network": "other"}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt: damaged checkpoint \(network is 'other', expec"):
        load_model(tmp_path / "a.pt")
    del content["network"]  # as files of before the second family
    torch.save(content, tmp_path / "a.pt")
    assert load_model(tmp_path / "a.pt")[1].config == model.config
