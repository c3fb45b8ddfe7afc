"""The EMS-YOLO authors' names of layers and tensors, and what shapes tell of a network."""

import torch
from torch import Tensor, nn

from models.anchor_head import STRIDES, AnchorDetect
from models.ems_blocks import (
    RealConv,
    RealShortcut,
    ResidualBlock,
    SpikingShortcut,
    WideningShortcut,
)
from models.ems_yolo import EMSYOLO, NECK, SIZES, WIDE, WIDENED, EMSConfig, resolve_config

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
STEM, FIRST = "model.0.conv.weight", "residual_function.1.weight"
COCO_CLASSES = 80


def ems_layers(extra_blocks: tuple[int, ...]) -> dict[str, str]:
    """Our name of a layer -> theirs, numbered; between lateral and out4 they count up and cat."""
    names, number = {"stem": "model.0"}, 1
    for stage, extra in enumerate(extra_blocks, start=1):
        names[f"stage{stage}.0"] = f"model.{number}"
        number += 1
        for i in range(extra):
            names[f"stage{stage}.{i + 1}"] = (
                f"model.{number}.{i}" if extra > 1 else f"model.{number}"
            )
        number += extra > 0
    offsets = {"neck": 0, "out5": 1, "lateral": 2, "upsample": 3, "out4": 5, "head": 6}
    return names | {name: f"model.{number + offset}" for name, offset in offsets.items()}


def ems_constants(config: EMSConfig) -> dict[str, Tensor]:
    """What their state_dict holds and ours does not: the anchors, in cells."""
    anchors = torch.tensor(config.anchors, dtype=torch.float64).unflatten(1, (-1, 2))
    strides = torch.tensor(STRIDES, dtype=torch.float64)
    return {f"{ems_layers(config.extra_blocks)['head']}.anchors": anchors / strides[:, None, None]}


def is_ems(state: dict[str, Tensor]) -> bool:
    return STEM in state and state[STEM].dim() == 4


def infer_ems_config(state: dict[str, Tensor], variant: str | None = None) -> EMSConfig:
    """Read layers, classes, channels and anchors off the names and shapes of their tensors.

    With `variant` None 80 classes mean "coco", any other number "gen1". Raises ValueError if a
    telling tensor is absent or misshapen.
    """

    def tensor(name: str) -> Tensor:
        if name not in state:
            raise ValueError(f"missing tensor {name!r}: this is not an EMS-YOLO state_dict")
        return state[name]

    extra_blocks: list[int] = []
    number = 1
    for _ in range(4):
        extra_blocks.append(_extra_blocks(state, number + 1))
        number += 2 if extra_blocks[-1] else 1
    names = ems_layers(tuple(extra_blocks))
    anchors = tensor(f"{names['head']}.anchors").double()
    if anchors.dim() != 3 or len(anchors) != len(STRIDES) or not anchors.numel():
        found = f"tensor '{names['head']}.anchors' has shape {tuple(anchors.shape)}"
        raise ValueError(f"{found}, expected [{len(STRIDES)}, n, 2]")
    px = anchors * torch.tensor(STRIDES)[:, None, None]
    num_classes = len(tensor(f"{names['head']}.m.0.weight")) // anchors.shape[1] - 5
    layout = "ee" if len(state[STEM]) == 32 else "resnet"
    blocks = {part: names.get(part, names.get(f"{part}.0")) for part in WIDENED}
    resnet = {
        "concat": f"{blocks['stage2']}.shortcut.1.weight" in state,
        "wide": tuple(
            part
            for part, name in blocks.items()
            if f"{name}.{FIRST}" in state and len(state[f"{name}.{FIRST}"]) == WIDE
        ),
        "real": tuple(part for part in NECK if f"{blocks[part]}.conv.weight" in state),
    }
    return resolve_config(
        "res10",
        variant=variant or ("coco" if num_classes == COCO_CLASSES else "gen1"),
        num_classes=num_classes,
        in_channels=state[STEM].shape[1],
        layout=layout,
        extra_blocks=tuple(extra_blocks),
        anchors=tuple(tuple(scale.flatten().tolist()) for scale in px),
        **(resnet if layout == "resnet" else {}),
    )


def _extra_blocks(state: dict[str, Tensor], number: int) -> int:
    """How many blocks layer `number` repeats; 0 if it is the next stage, which has a shortcut."""
    repeats = 0
    while f"model.{number}.{repeats}.{FIRST}" in state:
        repeats += 1
    if repeats:
        return repeats
    has_shortcut = any(name.startswith(f"model.{number}.shortcut.") for name in state)
    return int(f"model.{number}.{FIRST}" in state and not has_shortcut)


def ems_name(config: EMSConfig) -> str:
    """The published name of a network with these layers, or "ems" if it has none."""
    names = ("layout", "extra_blocks", "concat", "wide", "real")
    for size, published in SIZES.items():
        if all(getattr(published, name) == getattr(config, name) for name in names):
            return f"ems-{size}"
    return "ems"


def ems_parts(module: nn.Module) -> dict[str, str]:
    if isinstance(module, EMSYOLO):
        return ems_layers(module.config.extra_blocks)
    return EMS_PARTS.get(type(module), {})
