"""Whole networks of EMS-YOLO against the authors', and what they do with other input."""

import re
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from models import build_model, build_network
from models.authors import convert_state_dict, infer_config, module_names, tensor_names
from models.authors.__main__ import main
from models.checkpoint import load_checkpoint, load_model, save_checkpoint
from models.ems.head import cells_of
from models.ems.layout import Layer, ee_layout, resnet_layout
from models.ems.network import COCO_ANCHORS, EMSYOLO, RES10
from models.ems.neuron import LeakySiLU, LIFNode
from models.neuron import ILIFNode

CASES = ("gen1_res10-ee_T5", "coco_resnet34-cat_T4")
close = partial(torch.testing.assert_close, rtol=0, atol=1e-9)


def authors_state(rule, info: dict) -> dict[str, Tensor]:
    state = {}
    for name, shape in info["keys"].items():
        drawn = rule.tensor(name, tuple(shape))
        if name.endswith("anchors"):
            drawn = np.array(info["anchors_grid_units"])
        state[name] = torch.zeros((), dtype=torch.long) if drawn is None else torch.tensor(drawn)
    return state


def golden_input(rule, figures, case: str) -> Tensor:
    """[T, B, 3, H, W]; Gen1: ternary frames / 255 in three equal channels."""
    if case.startswith("coco"):
        return torch.tensor(figures["x"]).expand(4, -1, -1, -1, -1)
    uniform = rule.inp(case, (2, 5, 1, 64, 96))
    frames = np.where(uniform < 0.08, 0, np.where(uniform < 0.16, 255, 127)) / 255
    x = torch.tensor(frames).transpose(0, 1).expand(-1, -1, 3, -1, -1)
    close(x[0, 0, 0, 0, :32], torch.tensor(figures["x_head"]))
    return x


class Run(NamedTuple):
    """One forward of a golden network, and a backward in training."""

    model: EMSYOLO
    maps: list[Tensor]
    outputs: dict[str, Tensor]


@pytest.fixture(scope="module")
def run(ems_rule, ems_json, golden):
    @cache
    def run_once(case: str, mode: str) -> Run:
        state = authors_state(ems_rule, ems_json(f"{case}_keys"))
        model = build_network(infer_config(state)).double().train(mode == "train")
        model.load_state_dict(convert_state_dict(state))
        outputs = {}
        for name, module in model.named_modules():
            module.register_forward_hook(lambda _m, _x, out, name=name: outputs.update({name: out}))
        figures = golden(f"ems_yolo/{case}.npz")
        with torch.set_grad_enabled(mode == "train"):
            maps = model(golden_input(ems_rule, figures, case))
        if mode == "train":
            shapes = [figures[f"train_raw_{level}"].shape for level in ("p4", "p5")]
            cotangents = [
                ems_rule.rng(f"grad:{i}").standard_normal(s) for i, s in enumerate(shapes)
            ]
            sum(
                (cells_of(raw, 3) * torch.tensor(cotangent)).sum()
                for raw, cotangent in zip(maps, cotangents, strict=True)
            ).backward()
        return Run(model, [raw.detach() for raw in maps], outputs)

    return run_once


by_case = pytest.mark.parametrize("case", CASES)


@by_case
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_golden_maps(golden, run, case, mode):
    figures = golden(f"ems_yolo/{case}.npz")
    prefix = "train_" if mode == "train" else ""
    for level, raw in zip(("p4", "p5"), run(case, mode).maps, strict=True):
        close(cells_of(raw, 3), torch.tensor(figures[f"{prefix}raw_{level}"]))


@by_case
def test_golden_decoded(golden, run, case):
    xywh, objectness, classes = torch.tensor(golden(f"ems_yolo/{case}.npz")["decoded"]).split(
        [4, 1, 80 if case.startswith("coco") else 2], dim=-1
    )
    model, maps, _ = run(case, "eval")
    boxes, scores = model.decode(maps)
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    close(torch.cat([centre, size], -1), xywh)
    close(scores, objectness * classes)


@by_case
def test_golden_firing_rates_and_layers(ems_json, run, case):
    figures = ems_json(f"{case}_keys")["run"]
    model, _, outputs = run(case, "eval")
    ours = {theirs: name for name, theirs in module_names(model)}
    for theirs, rate, real in figures["lif"]:
        node = model.get_submodule(ours[theirs])
        assert isinstance(node, LeakySiLU if real else LIFNode)
        assert outputs[ours[theirs]].mean().item() == pytest.approx(rate, rel=1e-12)
    for number, shape, mean, _ in figures["layers"]:
        name = ours.get(f"model.{number}")
        if name in outputs:
            assert list(outputs[name].shape) == shape
            assert outputs[name].mean().item() == pytest.approx(mean, abs=1e-12)


@by_case
def test_golden_gradients(golden, ems_json, run, case):
    figures = golden(f"ems_yolo/{case}.npz")
    order = ems_json(f"{case}_keys")["run"]["grad_param_order"]
    model, _, _ = run(case, "train")
    parameters, theirs = dict(model.named_parameters()), tensor_names(model)
    ours = {theirs[name]: parameter for name, parameter in parameters.items()}
    assert set(ours) == set(order)
    for name, norm in zip(order, figures["train_grad_norm"], strict=True):
        assert ours[name].grad.norm().item() == pytest.approx(norm, rel=1e-9, abs=1e-9), name
    stem = model.stem
    close(stem.conv.weight.grad, torch.tensor(figures["train_grad_stem"]), rtol=1e-9)
    close(stem.bn.running_mean, torch.tensor(figures["train_running_mean_stem"]))
    close(stem.bn.running_var, torch.tensor(figures["train_running_var_stem"]))


@pytest.mark.parametrize(
    ("name", "variant", "parameters"),
    [
        ("ems-res10", "gen1", 6_207_050),
        ("ems-res18", "gen1", 9_343_370),
        ("ems-res34", "gen1", 14_399_306),
        ("ems-resnet34-cat", "coco", 25_449_022),
    ],
)
def test_published_numbers_of_parameters(name, variant, parameters):
    with torch.device("meta"):
        model = build_model(name, variant=variant, in_channels=3)
    assert sum(p.numel() for p in model.parameters()) == parameters


MS = Layer("ms", 512, 256)
LAYOUTS = {
    "other extra blocks": ee_layout(1, 0, 2, 0),
    "on lines of their own": replace(
        RES10, stages=(*RES10.stages[:3], (*RES10.stages[3], MS, MS, replace(MS, repeats=3)))
    ),
    "EMS-Block1 throughout": resnet_layout("ems1", 0, 1, 2, 0),
    "two ways to widen": replace(
        resnet_layout("ems1", 0, 0, 0, 0),
        stages=(*resnet_layout("ems1", 0, 0, 0, 0).stages[:3], (Layer("ems2", 512, 512),)),
    ),
    "wide branches": replace(
        resnet_layout("ems2", 1, 0, 0, 0),
        stages=((Layer("ems1", 64, 1024), Layer("ems1", 64, 1024)), *RES10.stages[1:]),
        neck=Layer("ems1", 256, 1024),
    ),
    "other kernels, MS-Blocks": replace(
        resnet_layout("ems2", 0, 0, 0, 0), stem_kernel=3,
        stages=((Layer("ms", 64, 32), Layer("ms", 64, 32)), *RES10.stages[1:]),
        neck=Layer("ems1", 256, 256, kernel=1),
    ),
    "no convolution, a narrow stem": replace(
        resnet_layout("ems2", 0, 0, 0, 0), stem_channels=32,
        out5=Layer("ems2", 512, 512), out4=Layer("ms", 256, 128),
    ),
    "more convolutions": replace(
        RES10, neck=Layer("conv", 256, kernel=1), lateral=Layer("conv", 128, kernel=1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("anchors", [COCO_ANCHORS, ((8.0, 4.0), (32.0, 16.0))])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_names_and_layers_of_any_layout_convert_both_ways(layout, anchors):
    settings = {"layout": LAYOUTS[layout], "anchors": anchors, "num_classes": 3, "in_channels": 2}
    with torch.device("meta"):
        model = build_model("ems-res10", **settings)
    theirs = tensor_names(model)
    state = {theirs[name]: tensor for name, tensor in model.state_dict().items()}
    cells = torch.tensor(anchors).unflatten(1, (-1, 2)) / torch.tensor([16, 32])[:, None, None]
    state[theirs["head.convs.0.bias"].replace("m.0.bias", "anchors")] = cells
    found = infer_config(state)
    assert {name: getattr(found, name) for name in settings} == settings
    converted = convert_state_dict(state)
    assert {name: tensor.shape for name, tensor in converted.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }


def test_a_layout_comes_back_from_a_checkpoint(tmp_path):
    config = build_model("ems-resnet10-cat", num_classes=2).config
    save_checkpoint(tmp_path / "x.pt", config, {}, {})
    assert load_checkpoint(tmp_path / "x.pt").config == config


def test_a_backbone_of_other_depth_is_refused(ems_rule, ems_json):
    state = authors_state(ems_rule, ems_json("gen1_res10-ee_T5_keys"))
    without_stage1 = {
        re.sub(r"^model\.(\d+)", lambda line: f"model.{max(int(line[1]) - 1, 0)}", name): tensor
        for name, tensor in state.items()
        if not name.startswith("model.1.")
    }
    with pytest.raises(ValueError, match="the backbone has 3 stages, expected 4"):
        infer_config(without_stage1)


def test_an_authors_file_becomes_a_checkpoint(ems_rule, ems_json, tmp_path, capsys):
    state = authors_state(ems_rule, ems_json("gen1_res10-ee_T5_keys"))
    torch.save({"model": state}, tmp_path / "theirs.pt")
    assert main([str(tmp_path / "theirs.pt"), str(tmp_path / "ours.pt")]) == 0
    assert "ems-res10, variant gen1, 2 classes, 3 input channels, 6,207,050 parameters;" in (
        capsys.readouterr().out
    )
    model, checkpoint = load_model(tmp_path / "ours.pt")
    assert (model.config.time_steps, checkpoint.meta["input"]) == (5, "ternary")
    for name, tensor in convert_state_dict(state).items():
        torch.testing.assert_close(model.state_dict()[name], tensor, check_dtype=False)

    del state["model.11.anchors"]
    torch.save({"model": state}, tmp_path / "theirs.pt")
    assert main([str(tmp_path / "theirs.pt"), str(tmp_path / "ours.pt")]) == 1
    assert "no tensor 'model.<n>.anchors': this is not an EMS-YOLO" in capsys.readouterr().err


def test_other_anchors_than_the_configuration_s_are_refused(ems_rule, ems_json):
    state = authors_state(ems_rule, ems_json("gen1_res10-ee_T5_keys"))
    config = infer_config(state)
    state["model.11.anchors"] = state["model.11.anchors"] * 2
    with pytest.raises(ValueError, match=r"'model.11.anchors' holds other values than"):
        convert_state_dict(state, config)


@pytest.mark.parametrize("activation", ["lif", "ilif", "nilif"])
@torch.no_grad()
def test_carried_state_makes_two_halves_one_stream(lively, events, activation):
    model = lively(build_model("ems-res10", variant="gen1", activation=activation))
    x = events(4, 1, 2, 32, 32)
    whole = model(x)
    model.carry_state = True
    for a, b, both in zip(model(x[:2]), model(x[2:]), whole, strict=True):
        torch.testing.assert_close((a + b) / 2, both)
    model.carry_state = False
    for again, both in zip(model(x), whole, strict=True):
        assert torch.equal(again, both)


@torch.no_grad()
def test_ann_twin_sees_time_as_channels(lively, events):
    twin = lively(build_model("ems-res10", variant="gen1", activation="relu"))
    assert not any(isinstance(m, ILIFNode) for m in twin.modules())
    assert twin.stem.conv.in_channels == 10
    maps = twin(events(5, 2, 2, 32, 64))
    assert [tuple(m.shape) for m in maps] == [(2, 21, 2, 4), (2, 21, 1, 2)]


def test_recomputed_stages_give_the_same_gradients(lively, events):
    x, gradients = events(2, 2, 2, 32, 32), []
    for checkpoint_stages in (False, True):
        torch.manual_seed(0)
        model = lively(build_model("ems-res18", variant="gen1", time_steps=2,
                                   checkpoint_stages=checkpoint_stages)).train()  # fmt: skip
        sum(raw.sum() for raw in model(x)).backward()
        gradients.append([p.grad for p in model.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)


def test_the_integer_neuron_has_its_own_default_d():
    nodes = {
        activation: next(
            m for m in build_model("ems-res10", activation=activation).modules()
            if isinstance(m, ILIFNode)
        )
        for activation in ("lif-hard", "ilif", "nilif")
    }  # fmt: skip
    assert {name: (node.max_spikes, node.spike_value) for name, node in nodes.items()} == {
        "lif-hard": (1, 1), "ilif": (4, 1), "nilif": (4, 0.25)
    }  # fmt: skip


def test_a_misshapen_tensor_is_named(ems_rule, ems_json):
    state = authors_state(ems_rule, ems_json("gen1_res10-ee_T5_keys"))
    state["model.5.residual_function.1.weight"] = torch.zeros(128)
    with pytest.raises(
        ValueError, match=r"'model.5.residual_function.1.weight' has shape \(128,\)"
    ):
        infer_config(state)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda: Layer("ems3", 64), "kind is 'ems3', expected one of ems1, ems2, ms, conv"),
        (lambda: replace(RES10, stages=RES10.stages[:2]), "has 2 stages, expected 4"),
        (
            lambda: build_model("ems-res10", layout=replace(RES10, neck=Layer("ems2", 256, 128))),
            "EMS-Block2 gets 512 channels and makes 256, expected it to widen",
        ),
    ],
)
def test_impossible_layers_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        layers()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_spikes": 4}, "max_spikes is 4, expected 1 for the neuron 'lif-hard'"),
        (
            {"activation": "qann"},
            "activation is 'qann', expected one of lif-hard, ilif, nilif, relu",
        ),
        ({"anchors": (((8, 4),), ((32, 16),))}, "anchors is .* expected 2 rows of w, h, w, h"),
        ({"width": 1}, "unknown model setting 'width', expected one of name"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build_model("ems-res10", **settings)
