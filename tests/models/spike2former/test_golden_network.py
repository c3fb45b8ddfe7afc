"""Whole networks against the authors': maps, losses, matches, gradients, segmentations."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models import build_model
from models.spike2former.loss import MaskLoss, masks_of, match
from models.spike2former.network import Spike2Former
from tests.models.spike2former.conftest import Probe, check_stored_gradients, files, info

slow = pytest.mark.slow
NETS = [pytest.param(n, marks=slow if "ade20k" in n else ()) for n in files("net_*")]


def build(name: str, said: dict[str, Any]) -> Spike2Former:
    """A network of the sizes the figures were made with."""
    settings: dict[str, Any] = {
        "num_classes": said["classes"],
        "in_channels": said["input"][2],
        "time_steps": said["input"][0],
        "axes": "aligned" if "aligned" in name else "published",
        "ignored": "background",
    }
    if "embed" in said:
        settings |= {
            "widths": tuple(said["embed"]),
            "channels": said["feat"],
            "queries": said["nq"],
            "encoder_layers": said["enc_layers"],
            "encoder_hidden": said["enc_ffn"],
            "encoder_groups": said["group"],
            "decoder_layers": said["dec_layers"],
            "decoder_hidden": said["dec_ffn"],
            "decoder_heads": said["heads"],
        }
    model = build_model("spike2former-15m", **settings)
    assert isinstance(model, Spike2Former)
    return model


def watch(model: Spike2Former) -> dict[str, Tensor]:
    """What passes between the parts in the next forward, by the figures' names."""
    seen: dict[str, Tensor] = {}

    def of_pyramid(_module: object, _x: object, y: tuple[Tensor, list[Tensor]]) -> None:
        seen["mask_feature"] = y[0]
        seen.update(zip(("f16", "f8", "f4"), y[1], strict=True))

    def spikes(_node: object, _x: object, y: Tensor) -> None:
        seen["memory"] = y

    def of_decoder(_module: object, _x: object, y: list[Tensor]) -> None:
        tokens = (state[..., 0].transpose(-1, -2) for state in y[1:])
        seen.update({f"query{i}": state for i, state in enumerate(tokens)})

    model.pixel_decoder.register_forward_hook(of_pyramid)
    model.pixel_decoder.leave.neuron.register_forward_hook(spikes)
    model.decoder.register_forward_hook(of_decoder)
    return seen


def check_maps(stored: Any, mode: str, maps: list[Tensor], seen: dict[str, Tensor]) -> None:
    for name, found in seen.items():
        Probe(stored, f"{mode}|{name}").check(found)
    classes, masks = maps
    for level in range(len(classes)):
        Probe(stored, f"{mode}|cls{level}").check(classes[level])
        Probe(stored, f"{mode}|mask{level}").check(masks[level])
    Probe(stored, f"{mode}|cls_last").check(classes[-1])
    last = stored[f"{mode}|mask_last"]
    Probe(stored, f"{mode}|mask_last").check(masks[-1][:, : last.shape[1]])


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", NETS)
def test_golden_network(figures, s2f_rule, fill, name, mode):
    stored, said = figures(name), info(name)
    model = build(name, said)
    names = fill(model, said["prefix"], said["keys"])
    model.train(mode == "train")
    seen = watch(model)
    tag = name.replace("_aligned", "")
    x = torch.tensor(s2f_rule.events(tag, tuple(said["input"]))).requires_grad_()
    maps = model(x)
    check_maps(stored, mode, maps, seen)
    if mode == "eval":
        cotangents = [
            torch.tensor(s2f_rule.cot(said["prefix"] + part, tuple(y.shape)))
            for part, y in zip(("cls", "mask"), maps, strict=True)
        ]
        torch.autograd.backward(maps, cotangents)
        check_segmentation(stored, model, maps)
    else:
        labels = torch.tensor(stored["gt"].astype(np.int64))
        criterion = model.criterion()
        assert isinstance(criterion, MaskLoss)
        check_matches(stored, maps, labels)
        check_items(stored, "train|loss_", criterion.levels(maps, labels))
        sum(criterion(maps, labels).values(), start=torch.zeros(())).backward()
        found = {names[o]: b.double().norm().item() for o, b in model.named_buffers()}
        for key, norm in zip(stored["after|keys"], stored["after|norms"], strict=True):
            assert found[key] == pytest.approx(norm, rel=1e-11), key
    Probe(stored, f"{mode}|grad_input").check(x.grad)
    check_stored_gradients(stored, mode, {names[o]: p.grad for o, p in model.named_parameters()})


def check_segmentation(stored: Any, model: Spike2Former, maps: list[Tensor]) -> None:
    size = stored["eval|segmentation"].shape[-2:]
    scores = model.decode([m.detach() for m in maps], size)
    Probe(stored, "eval|seg_logits").check(scores)
    Probe(stored, "eval|seg_logits_every_4th_px").check(scores[:, :, ::4, ::4])
    assert np.array_equal(scores.argmax(1).numpy(), stored["eval|segmentation"])


def check_items(stored: Any, at: str, levels: Tensor) -> None:
    """Theirs begin with the last level."""
    wanted = torch.tensor(stored[f"{at}items"]).view(-1, 3).roll(-1, 0)
    torch.testing.assert_close(levels.detach(), wanted, rtol=0, atol=1e-9)
    total = pytest.approx(float(stored[f"{at}total"]), abs=1e-9)
    assert levels.sum().item() == total


def check_matches(stored: Any, maps: list[Tensor], labels: Tensor) -> None:
    classes, masks = (m.detach() for m in maps)
    for level in range(len(classes)):
        for b, image in enumerate(labels):
            wanted = masks_of(image, masks.dtype, "background")
            queries, which = match(classes[level, b], masks[level, b], wanted)
            found = torch.full((classes.shape[2],), classes.shape[3] - 1)
            found[queries] = wanted.classes[which]
            assert found.tolist() == stored[f"train|labels|{level}|{b}"].tolist()
