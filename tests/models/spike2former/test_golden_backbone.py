"""The whole backbone against the authors', in evaluation and training."""

import pytest
import torch

from models.neuron import neurons
from models.spike2former.backbone import MetaSpikeFormer
from tests.models.spike2former.conftest import Probe, check_stored_gradients, files, info, theirs


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", files("backbone_*"))
def test_golden_backbone(figures, s2f_rule, fill, name, mode):
    stored, said = figures(name), info(name)
    shape = said["input"]
    backbone = MetaSpikeFormer(theirs, shape[2], said["embed"], said["heads"])
    names = fill(backbone, said["prefix"], said["keys"])
    backbone.train(mode == "train")
    counts: list[list[float]] = []
    for neuron in neurons(backbone).values():
        neuron.register_forward_hook(
            lambda _node, _x, y: counts.append(
                [
                    (4 * y).mean().item(),
                    (y > 0).double().mean().item(),
                    (y == 1).double().mean().item(),
                ]
            )
        )
    x = torch.tensor(s2f_rule.events(name, tuple(shape))).requires_grad_()
    maps = backbone(backbone.stem(x))
    cotangents = [
        torch.tensor(s2f_rule.cot(f"{said['prefix']}{i}", tuple(y.shape)))
        for i, y in enumerate(maps)
    ]
    torch.autograd.backward(maps, cotangents)
    for i, y in enumerate(maps):
        Probe(stored, f"{mode}|x{i + 1}").check(y)
    Probe(stored, f"{mode}|grad_input").check(x.grad)
    check_stored_gradients(stored, mode, {names[o]: p.grad for o, p in backbone.named_parameters()})
    assert sorted(map(tuple, counts)) == [
        pytest.approx(row, abs=1e-12)
        for row in sorted(map(tuple, stored[f"{mode}|mean_active_saturated"].tolist()))
    ]
    if mode == "train":
        found = {names[o]: b.double().norm().item() for o, b in backbone.named_buffers()}
        for key, norm in zip(stored["after|keys"], stored["after|norms"], strict=True):
            assert found[key] == pytest.approx(norm, rel=1e-11), key
