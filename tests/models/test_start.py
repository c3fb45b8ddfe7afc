"""A network begun with the weights of another one."""

from dataclasses import replace

import pytest
import torch

from models import build_model
from models.checkpoint import Checkpoint
from models.deploy import deploy
from models.start import rebinned, rescale_statistics, start_from

GEN1 = {"variant": "gen1", "time_steps": 2}


def checkpoint_of(model, kind="trained"):
    return Checkpoint(model.config, model.state_dict(), {}, {}, kind)


def begun(model, other, **options):
    return start_from(model, checkpoint_of(other, **options), "x.pt")


@pytest.mark.parametrize("name", ["spikeyolo-p", "ems-res10"])
def test_a_twin_gives_all_and_its_first_layer_summed_over_bins(name):
    twin = build_model(name, **GEN1, activation="relu")
    model = build_model(name, **GEN1, activation="ilif", max_spikes=8)
    start = begun(model, twin)
    (stem,) = start.reshaped
    assert start.anew == []
    theirs = twin.state_dict()
    for tensor, value in model.state_dict().items():
        wanted = theirs[tensor][:, :2] + theirs[tensor][:, 2:] if tensor == stem else theirs[tensor]
        wanted = 2 * wanted if tensor in start.scaled else wanted  # inputs are halved: variant gen1
        assert torch.equal(value, wanted), tensor


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"input_scale": 1.0}, 1),
        ({"input_scale": 4.0, "max_spikes": 16}, 4),
        ({"activation": "nilif", "input_scale": 1.0, "max_spikes": 8}, 1 / 8),
        ({"activation": "qann", "input_scale": 4.0}, 1),
    ],
)
def test_what_reads_spikes_without_a_batch_norm_makes_up_for_their_value(settings, value):
    twin = build_model("spikeyolo-p", **GEN1, activation="relu")
    model = build_model("spikeyolo-p", **GEN1, bins_per_step=2, **settings)
    start = begun(model, twin)
    heads = [f"head.{branch}.{i}.2.conv.weight" for branch in ("box", "cls") for i in range(3)]
    assert sorted(start.scaled) == ([] if value == 1 else heads)
    assert ("times" in start.in_words()) == bool(start.scaled)
    before, after = twin.state_dict(), model.state_dict()
    for name in heads:
        torch.testing.assert_close(after[name] * value, before[name])


def test_the_same_bins_at_once_give_the_first_layer_as_it_is():
    twin = build_model("spikeyolo-p", **GEN1, activation="relu")
    model = build_model("spikeyolo-p", **GEN1, bins_per_step=2, input_scale=1)
    assert begun(model, twin).reshaped == []
    assert all(map(torch.equal, model.state_dict().values(), twin.state_dict().values()))


@torch.no_grad()
@pytest.mark.parametrize("name", ["spikeyolo-p", "ems-res10"])
def test_batch_norms_that_do_not_learn_follow_the_value_of_spikes(name):
    torch.manual_seed(0)
    counts = build_model(name, **GEN1, activation="ilif")
    x = torch.poisson(torch.full((2, 2, 2, 64, 64), 0.5))
    for norm in (m for m in counts.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
        norm.bias.uniform_(-0.1, 0.4)
    counts.train()(x)
    shares = build_model(name, **GEN1, activation="nilif").eval()
    start = begun(shares, counts)
    assert start.factor == 4
    wanted = counts.eval()(x)
    assert not all(map(torch.equal, shares(x), wanted))
    assert len(rescale_statistics(shares, start.factor)) > 20
    assert all(map(torch.equal, shares(x), wanted))


@torch.no_grad()
def test_a_memory_reads_counts_that_may_be_finer():
    theirs = build_model("spikeyolo-p", **{**GEN1, "input_scale": 0.5}, memory="spiking")
    model = build_model("spikeyolo-p", **{**GEN1, "input_scale": 2.0}, memory="spiking")
    fresh = [memory.readout.weight.clone() for memory in model.memory]
    begun(model, theirs)
    assert all(torch.equal(m.readout.weight, w) for m, w in zip(model.memory, fresh, strict=True))


def test_as_many_classes_of_other_names_begin_anew():
    model = build_model("spikeyolo-p", **GEN1)
    start = start_from(model, checkpoint_of(model), "x.pt", other_classes=True)
    assert {name.rpartition(".")[0] for name in start.anew} == {
        f"head.cls.{i}.2.conv" for i in range(3)
    }


@pytest.mark.parametrize(("found", "wanted"), [(4, 1), (4, 2), (1, 4), (2, 4)])
def test_a_scene_that_stands_still_gives_every_step_the_same_sum(found, wanted):
    weight = torch.rand(3, found * 2, 5, 5)
    still = torch.rand(2)

    def total(kernel, bins):  # per bin, of the time that the layer sees
        return torch.einsum("ochw,c->o", kernel, still.repeat(bins))

    torch.testing.assert_close(total(rebinned(weight, found, wanted), wanted), total(weight, found))


@pytest.mark.parametrize(
    ("name", "anew"),
    [
        ("spikeyolo-p", {f"head.cls.{i}.2.conv" for i in range(3)}),
        ("ems-res10", {f"head.convs.{i}" for i in range(2)}),
    ],
)
@pytest.mark.parametrize("classes", [5, 80])
def test_other_classes_begin_anew_in_the_layers_that_count_them(name, anew, classes):
    theirs = build_model(name, **GEN1, num_classes=classes)
    model = build_model(name, **GEN1)
    start = begun(model, theirs)
    assert anew <= {tensor.rpartition(".")[0] for tensor in start.anew}
    assert all(tensor.startswith("head.c") for tensor in start.anew)
    assert len(start.taken) + len(start.anew) == len(model.state_dict())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("spikeyolo-n", {}, r"x\.pt: down1\.conv\.weight is \(48, 2, 7, 7\), exp"),
        ("ems-res10", {}, r"x\.pt: holds a ems network, expected spikeyolo"),
        ("spikeyolo-p", {"in_channels": 3}, r"x\.pt: reads 3 channels, expected 2"),
        (
            "spikeyolo-p",
            {"time_steps": 3, "activation": "relu"},
            "a first layer of 3 bins cannot serve 2, expected a divisor",
        ),
    ],
)
def test_another_network_is_refused_and_nothing_is_changed(name, settings, message):
    model = build_model("spikeyolo-p", **GEN1, bins_per_step=2 if "time_steps" in settings else 1)
    before = {tensor: value.clone() for tensor, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        begun(model, build_model(name, **{**GEN1, **settings}))
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


def test_a_deployed_network_is_refused():
    model = build_model("spikeyolo-p", **GEN1)
    with pytest.raises(ValueError, match="holds a deployed network, expected a trained one"):
        begun(model, deploy(model), kind="deployed")


def test_extra_weights_are_named():
    model = build_model("spikeyolo-p", **GEN1)
    more = replace(model.config, depth=1.0)
    with pytest.raises(ValueError, match=r"stage1\.1\.conv1\.bn\.bias has no place in spikeyolo-p"):
        begun(model, type(model)(more))
