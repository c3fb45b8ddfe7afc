"""The whole network against the authors', and what it does with other input."""

from functools import cache, partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from models import build_model
from models.authors import convert_state_dict, infer_config, module_names, tensor_names
from models.blocks import BNAndPad
from models.decode import decode
from models.neuron import ILIFNode
from models.spikeyolo import SpikeYOLO

CASES = {"coco_n_T4": "coco_n_nc80", "gen1_s_T2": "gen1_s_nc2"}
close = partial(torch.testing.assert_close, rtol=0, atol=1e-9)


class Run(NamedTuple):
    """One forward and backward of a golden network; modules by the authors' names."""

    model: SpikeYOLO
    x: Tensor
    maps: list[Tensor]
    loss: Tensor
    outputs: dict[str, Tensor]
    inputs: dict[str, Tensor]
    tensors: dict[str, Tensor]  # parameters and buffers


def golden_input(rule, case: str) -> Tensor:
    if case == "coco_n_T4":
        image = torch.tensor(rule.image(case, (2, 3, 64, 64)))
        return image.expand(4, -1, -1, -1, -1).clone()
    frames = np.repeat(rule.image(case, (2, 2, 1, 64, 96), event=True), 3, axis=2)
    return torch.tensor(frames).transpose(0, 1).contiguous()


@pytest.fixture(scope="module")
def run(rule, authors_state):
    """run(case, mode) -> the golden network after one forward and backward."""

    @cache
    def run_once(case: str, mode: str) -> Run:
        state = authors_state(CASES[case])
        model = SpikeYOLO(infer_config(state)).double().train(mode == "train")
        model.load_state_dict(convert_state_dict(state))
        theirs = dict(module_names(model))
        outputs, inputs = {}, {}
        for name, module in model.named_modules():

            def keep(_module, args, out, name=theirs[name]) -> None:
                outputs[name], inputs[name] = out, args[0]

            module.register_forward_hook(keep)
        x = golden_input(rule, case).requires_grad_()
        maps = model(x)
        loss = sum(
            (raw * torch.tensor(rule.cotangent(f"{case}:raw{i}", tuple(raw.shape)))).sum()
            for i, raw in enumerate(maps)
        )
        loss.backward()
        ours = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        tensors = {their: ours[our] for our, their in tensor_names(model).items()}
        return Run(model, x, maps, loss.detach(), outputs, inputs, tensors)

    return run_once


by_case = pytest.mark.parametrize("case", CASES)
by_mode = pytest.mark.parametrize("mode", ["eval", "train"])


@by_case
@by_mode
def test_golden_maps(golden, run, case, mode):
    figures, result = golden(f"spikeyolo/forward_{case}.npz"), run(case, mode)
    x = result.x.detach()
    assert x.sum().item() == pytest.approx(
        float(figures["input_sum"]) * (len(x) if case == "coco_n_T4" else 1), abs=1e-6
    )
    for index, raw in enumerate(result.maps):
        close(raw.detach(), torch.tensor(figures[f"{mode}_raw{index}"]))
    close(result.loss, torch.tensor(figures[f"{mode}_loss"]))


@by_case
def test_golden_decoded(golden, run, case):
    y = torch.tensor(golden(f"spikeyolo/forward_{case}.npz")["eval_y"])
    boxes, scores = decode([raw.detach() for raw in run(case, "eval").maps])
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    close(torch.cat([centre, size, scores], -1).transpose(1, 2), y)


@by_case
@by_mode
def test_golden_gradients(golden, run, case, mode):
    """Norm of every parameter's gradient; 18 are zero but for rounding when training."""
    figures, result = golden(f"spikeyolo/forward_{case}.npz"), run(case, mode)
    norms = dict(zip(figures[f"{mode}_grad_norm_keys"], figures[f"{mode}_grad_norms"], strict=True))
    frozen = [name for name, norm in norms.items() if norm == -1]
    assert frozen == ["model.26.dfl.conv.weight"]
    parameters = {
        name for name, tensor in result.tensors.items() if isinstance(tensor, torch.nn.Parameter)
    }
    assert parameters == set(norms) - set(frozen)
    for name in parameters:
        structurally_zero = mode == "train" and norms[name] < 1e-8
        tolerance = 1e-8 if structurally_zero else 1e-9 * max(1, norms[name])
        assert result.tensors[name].grad.norm().item() == pytest.approx(
            norms[name], rel=0, abs=tolerance
        ), name
    for name, expected in zip(
        figures["grad_first16_keys"], figures[f"{mode}_grad_first16"], strict=True
    ):
        found = result.tensors[name].grad.flatten()[:16]
        close(found, torch.tensor(expected)[: len(found)], atol=1e-8)


@by_case
@by_mode
def test_golden_input_gradient(golden, run, case, mode):
    figures = golden(f"spikeyolo/forward_{case}.npz")
    grad = run(case, mode).x.grad
    is_repeated_image = case == "coco_n_T4"
    grad = grad.sum(0) if is_repeated_image else grad.transpose(0, 1)
    norm = float(figures[f"{mode}_grad_input_norm"])
    assert grad.norm().item() == pytest.approx(norm, rel=1e-12)
    first = torch.tensor(figures[f"{mode}_grad_input_first16"])
    close(grad.flatten()[:16], first)


@by_case
@by_mode
def test_golden_spikes(golden, run, case, mode):
    """Per neuron: mean spike count, share that fires, share at D."""
    figures, result = golden(f"spikeyolo/forward_{case}.npz"), run(case, mode)
    names = [str(name) for name in figures[f"{mode}_lif_names"]]
    neurons = sum(isinstance(module, ILIFNode) for module in result.model.modules())
    assert len(set(names)) == neurons == 88
    for name, expected in zip(names, figures[f"{mode}_lif_mean_active_sat"], strict=True):
        spikes = result.outputs[name]
        found = [spikes.mean(), (spikes > 0).double().mean(), (spikes >= 4).double().mean()]
        assert [f.item() for f in found] == pytest.approx(expected.tolist(), abs=1e-12), name


@by_case
@by_mode
def test_golden_layers(golden, run, case, mode):
    """Every layer the authors number, the concatenations and upsamplings between ours too."""
    figures, result = golden(f"spikeyolo/forward_{case}.npz"), run(case, mode)
    read_by = {11: 12, 13: 14, 15: 16, 17: 18, 21: 22, 24: 25}
    for index in range(1, 26):
        if index in read_by:
            out = result.inputs[f"model.{read_by[index]}"]
        else:
            out = result.outputs[f"model.{index}"]
        assert str([*out.shape]) == figures[f"{mode}_layer_shape"][index]
        close(out.norm().item(), float(figures[f"{mode}_layer_norm"][index]), rtol=1e-12)
        close(out.mean().item(), float(figures[f"{mode}_layer_mean"][index]))
        first = torch.tensor(figures[f"{mode}_layer_first8"][index])
        close(out.detach().flatten()[:8], first)


@by_case
def test_golden_running_statistics(golden, run, case):
    figures, tensors = golden(f"spikeyolo/forward_{case}.npz"), run(case, "train").tensors
    names = [str(name) for name in figures["bn_after_norm_keys"]]
    assert set(names) == {name for name in tensors if ".running_" in name}
    for name, norm in zip(names, figures["bn_after_norms"], strict=True):
        assert tensors[name].norm().item() == pytest.approx(float(norm), abs=1e-9), name
    for index, name in enumerate(figures["bn_after_keys"]):
        for statistic in ("running_mean", "running_var"):
            found = tensors[f"{name}.{statistic}"][:16]
            close(
                found, torch.tensor(figures[f"bn_after_{statistic}_first16"][index])[: len(found)]
            )


@pytest.mark.parametrize(
    ("name", "overrides", "published"),
    [
        ("spikeyolo-n", {}, 13_271_632),
        ("spikeyolo-s", {}, 23_153_024),
        ("spikeyolo-m", {}, 47_841_856),
        ("spikeyolo-l", {}, 68_478_400),
        ("spikeyolo-s", {"variant": "gen1", "num_classes": 2, "in_channels": 3}, 23_122_838),
    ],
)
def test_published_parameter_counts(name, overrides, published):
    with torch.device("meta"):
        model = build_model(name, **overrides)
    ours = sum(parameter.numel() for parameter in model.parameters())
    assert ours + 16 == published  # their 16 frozen distance bins are arithmetic here


def test_gen1_m_has_one_block_in_layer_8():
    with torch.device("meta"):
        coco, gen1 = (build_model("spikeyolo-m", variant=v) for v in ("coco", "gen1"))
    assert (len(coco.stage4), len(gen1.stage4)) == (2, 1)


def test_variant_sets_the_neuron_and_overrides_win():
    gen1 = build_model("spikeyolo-p", variant="gen1").config
    assert (gen1.decay, gen1.input_scale, gen1.num_classes, gen1.in_channels) == (0.5, 0.5, 2, 2)
    other = build_model("spikeyolo-p", variant="gen1", decay=0.25, max_spikes=1, in_channels=None)
    assert (other.config.decay, other.config.in_channels) == (0.25, 2)
    nodes = [module for module in other.modules() if isinstance(module, ILIFNode)]
    assert {(node.decay, node.max_spikes) for node in nodes} == {(0.25, 1)}


@pytest.mark.parametrize(
    ("name", "overrides", "complaint"),
    [
        ("spikeyolo-xl", {}, "model is 'spikeyolo-xl', expected one of spikeyolo-p, .*-l$"),
        ("ems-res50", {}, "model is 'ems-res50', expected one of ems-res10, .*-cat$"),
        ("resnet", {}, "model is 'resnet', expected one of spikeyolo-p, .*-e-19m$"),
        ("spikeyolo-p", {"variant": "gen2"}, "variant is 'gen2', expected one of coco, gen1"),
        ("spikeyolo-p", {"activation": "gelu"}, "activation is 'gelu'"),
        ("spikeyolo-p", {"num_classes": 0}, "num_classes is 0"),
        ("spikeyolo-p", {"tau": 2}, "unknown model setting 'tau'"),
    ],
)
def test_impossible_settings_are_refused(name, overrides, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_model(name, **overrides)


@pytest.mark.parametrize(
    ("shape", "complaint"),
    [
        ((1, 2, 64, 64), r"expected \[T, B, 2, H, W\]"),
        ((1, 1, 3, 64, 64), r"expected \[T, B, 2, H, W\]"),
        ((1, 1, 2, 240, 304), "input is 240x304 px, expected multiples of 32"),
    ],
)
def test_other_input_shapes_are_refused(shape, complaint):
    model = build_model("spikeyolo-p", variant="gen1")
    with pytest.raises(ValueError, match=complaint):
        model(torch.zeros(shape))


def test_map_shapes_are_the_same_in_both_modes(lively, events):
    model = lively(build_model("spikeyolo-p", variant="gen1"))
    x = events(4, 2, 2, 64, 96)
    for mode in (True, False):
        maps = model.train(mode)(x)
        assert [tuple(m.shape) for m in maps] == [(2, 66, 8, 12), (2, 66, 4, 6), (2, 66, 2, 3)]


@torch.no_grad()
def test_every_forward_starts_from_rest(lively, events):
    model = lively(build_model("spikeyolo-p", variant="gen1"))
    x = events(4, 1, 2, 32, 32)
    for first, second in zip(model(x), model(x), strict=True):
        assert torch.equal(first, second)
    assert all(m.v is None for m in model.modules() if isinstance(m, ILIFNode))


@torch.no_grad()
def test_carried_state_makes_two_halves_one_stream(lively, events):
    model = lively(build_model("spikeyolo-p", variant="gen1"))
    x = events(4, 1, 2, 32, 32)
    whole = model(x)
    model.carry_state = True
    first, second = model(x[:2]), model(x[2:])
    for a, b, both in zip(first, second, whole, strict=True):
        torch.testing.assert_close((a + b) / 2, both)
    model.carry_state = False
    for again, both in zip(model(x), whole, strict=True):
        assert torch.equal(again, both)


@torch.no_grad()
def test_ann_twin_sees_time_as_channels(lively, events):
    twin = lively(build_model("spikeyolo-p", variant="gen1", activation="relu"))
    assert not any(isinstance(m, ILIFNode) for m in twin.modules())
    assert twin.down1.conv.in_channels == 8
    x = events(4, 2, 2, 32, 64)
    maps = twin(x)
    assert [tuple(m.shape) for m in maps] == [(2, 66, 4, 8), (2, 66, 2, 4), (2, 66, 1, 2)]
    seen = []
    twin.down1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    twin(x)
    assert torch.equal(seen[0][0, 1, 5], x[2, 1, 1])  # channel 5 = bin 2, ON
    with pytest.raises(ValueError, match="T=3, the network was built for T=4"):
        twin(x[:3])


def test_border_uses_statistics_already_updated_by_this_forward():
    layer = BNAndPad(1).double()
    x = torch.full((2, 1, 2, 2), 3.0, dtype=torch.float64)
    x[1] = 5
    border = layer(x)[0, 0, 0, 0].item()
    mean = 0.03 * 4
    var = 0.97 + 0.03 * (8 / 7)  # running variance is of the sample, unbiased
    assert border == pytest.approx(-mean / (var + 1e-3) ** 0.5)
