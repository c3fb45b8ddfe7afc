"""Spike2Former deployed, spike-driven, priced and kept in a file, as the detectors are."""

from functools import partial

import pytest
import torch
from torch import nn

from models import build_model
from models.checkpoint import load_model, save_checkpoint
from models.deploy import batch_norms, deploy
from models.energy import measure_energy
from models.operations import count_operations
from models.spike2former.products import Sampling, SpikeMatmul
from models.spike_driven import SpikeDrivenConv, spike_driven

close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)
H, W = 32, 64


@pytest.fixture
def network(lively):
    """network(**settings) -> a small one in float64 whose every branch matters."""

    def build(size="tiny", **settings):
        torch.manual_seed(0)
        model = build_model(f"spike2former-{size}", variant="gen1", time_steps=2, **settings)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("_scale") or "attention.offset." in name:
                    nn.init.uniform_(parameter, 0.3, 0.7)
        return lively(model)

    return build


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "nilif"},
        {"activation": "nilif", "max_spikes": 2, "decay": 0.25},
        {"activation": "nilif", "axes": "published"},
        {"activation": "ilif"},
        {"activation": "nilif", "head": "fpn"},
        {"size": "e-tiny", "activation": "nilif"},
    ],
    ids=str,
)
@torch.no_grad()
def test_deployed_and_spike_driven_twins_are_equal(network, events, settings):
    model, x = network(**settings), events(2, 1, 2, H, W)
    deployed = deploy(model)
    assert not batch_norms(deployed)
    twin, again = spike_driven(deployed), deploy(deployed)
    for ours, *others in zip(model(x), deployed(x), twin(x), again(x), strict=True):
        assert ours.abs().max() > 0.1
        for theirs in others:
            close(theirs, ours)
    real = {n for n, m in twin.named_modules() if isinstance(m, nn.Conv2d)} - {
        f"{n}.conv" for n, m in twin.named_modules() if isinstance(m, SpikeDrivenConv)
    }
    assert all(m.binary_slots for m in twin.modules() if isinstance(m, SpikeMatmul | Sampling))
    backbone = model.config.backbone
    assert all(n == "spikeformer.stem.conv" or "mixer.project" in n for n in real)
    assert len(real) == {"meta": 1 + 4, "e": 1}[backbone]


@pytest.mark.parametrize("head", ["mask", "fpn"])
@torch.no_grad()
def test_the_ann_twin_deploys_and_is_all_mac(network, events, head):
    model, x = network(activation="relu", head=head), events(2, 1, 2, H, W)
    for ours, folded in zip(model(x), deploy(model)(x), strict=True):
        close(folded, ours)
    ann, snn = measure_energy(model, [x]), measure_energy(network(head=head), [x])
    assert (ann.ac, ann.ratio) == (0, 1)
    assert ann.ann_mj == pytest.approx(snn.ann_mj)
    assert snn.ac > 0


@torch.no_grad()
def test_a_deployed_file_brings_the_network_back(network, events, tmp_path):
    deployed, x = deploy(network()).float(), events(2, 1, 2, H, W).float()
    save_checkpoint(tmp_path / "a.pt", deployed.config, deployed.state_dict(), {}, kind="deployed")
    back, _ = load_model(tmp_path / "a.pt")
    for ours, theirs in zip(deployed(x), back(x), strict=True):
        assert torch.equal(ours, theirs)


@torch.no_grad()
def test_products_are_counted_by_the_spikes_that_meet():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 3, (2, 4, 5), generator=generator).double()
    b = torch.randint(0, 3, (2, 5, 6), generator=generator).double()
    meet, select = SpikeMatmul("both"), SpikeMatmul("left")
    by_hand = sum(
        int(a[n, i, k] * b[n, k, j])
        for n in range(2) for i in range(4) for j in range(6) for k in range(5)
    )  # fmt: skip
    (work,) = meet.work((a, b), a @ b)
    assert (work.macs, work.accumulates, work.outputs) == (2 * 4 * 5 * 6, by_hand, 48)
    added = sum(  # every spike of one side adds a number of the other
        int(a[n, i, k]) for n in range(2) for i in range(4) for j in range(6) for k in range(5)
    )
    (work,) = select.work((a, b), a @ b)
    assert work.accumulates == added
    added = sum(
        int(b[n, k, j]) for n in range(2) for i in range(4) for j in range(6) for k in range(5)
    )
    (work,) = SpikeMatmul("right").work((a, b), a @ b)
    assert work.accumulates == added
    weight = torch.randint(0, 3, (1, 2 * 9, 3, 4), generator=generator).double()
    values, offset = torch.zeros(1, 8, 3, 4).double(), torch.zeros(1, 36, 3, 4).double()
    read, chosen = Sampling().work((values, offset, weight), values)
    assert (read.macs, read.accumulates) == (4 * 9 * 8 * 12, None)
    added = sum(
        int(weight[0, 9 * (c // 4) + p, y, x])
        for c in range(8) for p in range(9) for y in range(3) for x in range(4)
    )  # fmt: skip
    assert (chosen.macs, chosen.accumulates) == (9 * 8 * 12, added)


@torch.no_grad()
@pytest.mark.parametrize("spikes", ["left", "right", "both"])
def test_products_on_slots_are_products_of_counts(spikes):
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 4, (2, 4, 5), generator=generator).double()
    b = torch.randint(0, 4, (2, 5, 6), generator=generator).double()
    a, b = (x + 0.25 if spikes == other else x for x, other in ((a, "right"), (b, "left")))
    product = SpikeMatmul(spikes)
    product.binary_slots = 3
    torch.testing.assert_close(product(a, b), a @ b, rtol=0, atol=1e-12)
    for wrong in (0.5, 3.0):
        with pytest.raises(ValueError, match=r"other numbers than integer counts in 0\.\.3"):
            product(a + wrong, b + wrong)


class Sneaky(nn.Module):
    """A product that says nothing of its work."""

    def __init__(self, product):
        super().__init__()
        self.product = product

    def forward(self, a, b):
        return self.product(a, b)


@pytest.mark.parametrize("product", [
    lambda a, b: a @ b,
    lambda a, b: torch.einsum("...mk,...kn->...mn", a, b),
    lambda a, b: (a[..., :, :, None] * b[..., None, :, :]).sum(-2),
], ids=["matmul", "einsum", "mul"])  # fmt: skip
def test_a_product_that_no_rule_covers_has_no_price(network, events, product):
    model, x = network(), events(2, 1, 2, H, W)
    model.spikeformer.stage4[0].attention.select = Sneaky(product)
    with pytest.raises(ValueError, match=r"cannot price .* in '.*attention.select', a product"):
        measure_energy(model, [x])


@torch.no_grad()
def test_maps_of_several_sizes_are_priced_by_their_mean(network, events):
    model = network(head="fpn")
    small, large = events(2, 1, 2, 32, 32), events(2, 1, 2, 64, 64)
    both, turned = (measure_energy(model, xs) for xs in ([small, large], [large, small]))
    alone = [measure_energy(model, [x]) for x in (small, large)]
    for name in ("ann_mj", "snn_mj", "mac", "ac", "snn_mj_with_memory", "ann_mj_with_memory"):
        mean = sum(getattr(report, name) for report in alone) / 2
        assert getattr(both, name) == pytest.approx(mean, rel=1e-9), name
        assert getattr(turned, name) == pytest.approx(mean, rel=1e-9), name


@torch.no_grad()
def test_energy_knows_every_layer_and_what_it_reads(network, events):
    x = events(2, 3, 2, H, W)
    model = network()
    report = measure_energy(model, [x[:, :1], x[:, 1:]])
    layers = {layer.name: layer for layer in report.layers}
    multiplies = {name for name, layer in layers.items() if layer.mac}
    assert all(
        name == "spikeformer.stem.conv" or name.endswith(("mixer.project.conv", "sampling.read"))
        for name in multiplies
    )
    stem, paint = layers["spikeformer.stem.conv"], layers["head.paint"]
    assert stem.mac == 2 * 8 * 2 * 49 * 16 * 32
    assert paint.macs_per_step == 16 * 64 * 16 * 32  # the last level alone
    attention = layers["spikeformer.stage4.0.attention.meet"]
    assert attention.macs_per_step == 64 * 8 * 2 * 4
    assert attention.ac > 0
    deployed = deploy(model)
    every, _ = count_operations(deployed, [x])
    assert {la.name: la.macs_per_step for la in every}["head.paint"] == 4 * paint.macs_per_step
