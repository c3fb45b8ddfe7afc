"""The EMS-YOLO authors' names of layers and tensors, and what shapes tell of a network."""

import re
from dataclasses import replace

import torch
from torch import Tensor, nn

from models import resolve
from models.ems.blocks import (
    RealConv,
    RealShortcut,
    ResidualBlock,
    SpikingShortcut,
    WideningShortcut,
)
from models.ems.head import STRIDES, AnchorDetect
from models.ems.layout import BEHIND_BACKBONE, Layer, Layout
from models.ems.network import EMSYOLO, SIZES, EMSConfig

#: What the authors call the parts of a module, by our class; "a.b" names a part of a part.
EMS_PARTS: dict[type[nn.Module], dict[str, str]] = {
    ResidualBlock: {
        "conv1.neuron": "residual_function.0",
        "conv1.conv": "residual_function.1",
        "conv1.bn": "residual_function.2.bn",
        "conv2.neuron": "residual_function.3",
        "conv2.conv": "residual_function.4",
        "conv2.bn": "residual_function.5.bn",
    },
    SpikingShortcut: {"pool": "0", "conv.neuron": "1", "conv.conv": "2", "conv.bn": "3.bn"},
    RealShortcut: {"pool": "0", "conv.conv": "1", "conv.bn": "2.bn", "conv.act": ""},
    WideningShortcut: {"conv.neuron": "0", "conv.conv": "1", "conv.bn": "2.bn"},
    RealConv: {"bn": "bn.bn"},
    AnchorDetect: {"convs": "m"},
}
STEM = "model.0.conv.weight"
FIRST, SECOND = "residual_function.1.weight", "residual_function.4.weight"
COCO_CLASSES = 80
#: Layers behind the backbone, by how many numbers they stand before the head.
BEFORE_HEAD = {"neck": 6, "out5": 5, "lateral": 4, "upsample": 3, "out4": 1, "head": 0}


def ems_layers(config: EMSConfig) -> dict[str, str]:
    """Our name of a layer -> theirs: lines are numbered, repeats numbered within their line."""
    names, number = {"stem": "model.0"}, 1
    for stage, layers in enumerate(config.layout.stages, start=1):
        blocks: list[str] = []
        for layer in layers:
            line = f"model.{number}"
            several = [f"{line}.{i}" for i in range(layer.repeats)]
            blocks += several if layer.repeats > 1 else [line]
            number += 1
        names |= {f"stage{stage}.{i}": block for i, block in enumerate(blocks)}
    head = number + BEFORE_HEAD["neck"]
    return names | {name: f"model.{head - before}" for name, before in BEFORE_HEAD.items()}


def ems_constants(config: EMSConfig) -> dict[str, Tensor]:
    """What their state_dict holds and ours does not: the anchors, in cells."""
    anchors = torch.tensor(config.anchors, dtype=torch.float64).unflatten(1, (-1, 2))
    strides = torch.tensor(STRIDES, dtype=torch.float64)
    return {f"{ems_layers(config)['head']}.anchors": anchors / strides[:, None, None]}


def is_ems(state: dict[str, Tensor]) -> bool:
    return STEM in state and state[STEM].dim() == 4


def infer_ems_config(state: dict[str, Tensor], variant: str | None = None) -> EMSConfig:
    """Read layers, classes, channels and anchors off the names and shapes of their tensors.

    With `variant` None 80 classes mean "coco", any other number "gen1". Raises ValueError if a
    telling tensor is absent or misshapen.
    """
    head, anchors = _head(state)
    stages: list[list[Layer]] = []
    for number in range(1, head - BEFORE_HEAD["neck"]):
        if not stages or _changes_its_map(state, number):
            stages.append([])
        stages[-1].append(_layer(state, number))
    stem_channels, stem_kernel = _kernels(state, STEM)
    layout = Layout(
        stem_channels=stem_channels,
        stem_kernel=stem_kernel,
        stages=tuple(map(tuple, stages)),
        **{name: _layer(state, head - BEFORE_HEAD[name]) for name in BEHIND_BACKBONE},
    )
    num_classes = len(_tensor(state, f"model.{head}.m.0.weight")) // anchors.shape[1] - 5
    px = anchors * torch.tensor(STRIDES)[:, None, None]
    config = resolve(
        "ems-res10",
        variant=variant or ("coco" if num_classes == COCO_CLASSES else "gen1"),
        num_classes=num_classes,
        in_channels=state[STEM].shape[1],
        layout=layout,
        anchors=tuple(tuple(scale.flatten().tolist()) for scale in px),
    )
    assert isinstance(config, EMSConfig)
    sizes = (size for size, published in SIZES.items() if published.layout == layout)
    return replace(config, name="-".join(["ems", *sizes]))


def _tensor(state: dict[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"missing tensor {name!r}: this is not an EMS-YOLO state_dict")
    return state[name]


def _kernels(state: dict[str, Tensor], name: str) -> tuple[int, int]:
    """Kernels of a convolution and their side."""
    shape = tuple(_tensor(state, name).shape)
    if len(shape) != 4:
        raise ValueError(f"tensor {name!r} has shape {shape}, expected [out, in, k, k]")
    return shape[0], shape[2]


def _head(state: dict[str, Tensor]) -> tuple[int, Tensor]:
    """Number of the layer with the anchors, and those, in cells, float64 [2, n, 2]."""
    names = [name for name in state if re.fullmatch(r"model\.\d+\.anchors", name)]
    if len(names) != 1:
        raise ValueError("no tensor 'model.<n>.anchors': this is not an EMS-YOLO state_dict")
    (name,) = names
    anchors = state[name].double()
    if anchors.dim() != 3 or len(anchors) != len(STRIDES) or not anchors.numel():
        shape = f"tensor {name!r} has shape {tuple(anchors.shape)}"
        raise ValueError(f"{shape}, expected [{len(STRIDES)}, n, 2]")
    return int(name.split(".")[1]), anchors


def _layer(state: dict[str, Tensor], number: int) -> Layer:
    """A line of their layout. Without a shortcut EMS-Block1 and MS-Block are the same."""
    line = f"model.{number}"
    repeats = 0
    while f"{line}.{repeats}.{FIRST}" in state:
        repeats += 1
    block = f"{line}.0" if repeats else line
    if f"{block}.conv.weight" in state:
        channels, kernel = _kernels(state, f"{block}.conv.weight")
        return Layer("conv", channels, kernel=kernel)
    hidden, kernel = _kernels(state, f"{block}.{FIRST}")
    channels, _ = _kernels(state, f"{block}.{SECOND}")
    kind = "ms" if hidden == channels // 2 else "ems1"
    if f"{block}.shortcut.2.weight" in state:
        kind = "ems1"
    elif f"{block}.shortcut.1.weight" in state:
        kind = "ms" if len(state[f"{block}.shortcut.1.weight"]) == channels else "ems2"
    return Layer(kind, channels, hidden, kernel, repeats or 1)


def _changes_its_map(state: dict[str, Tensor], number: int) -> bool:
    """Does a layer of the backbone begin a stage? A block without a shortcut of its own cannot."""
    block = f"model.{number}."
    shortcut = any(name.startswith(f"{block}shortcut.") for name in state)
    return shortcut or f"{block}conv.weight" in state


def ems_parts(module: nn.Module) -> dict[str, str]:
    if isinstance(module, EMSYOLO):
        return ems_layers(module.config)
    return EMS_PARTS.get(type(module), {})
