"""The SpikeYOLO and EMS-YOLO authors' weights as ours, strict in both directions.

`python -m models.authors CHECKPOINT OUT` turns one of their published files into a checkpoint.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from models import build_network
from models.blocks import (
    SPPF,
    AllConvBlock,
    ConvBlock,
    Downsample,
    RepConv,
    SepConv,
    SepRepConv,
    SpikeConv,
)
from models.checkpoint import save_checkpoint
from models.detector import DetectorConfig
from models.ems_authors import (
    ems_constants,
    ems_name,
    ems_parts,
    infer_ems_config,
    is_ems,
)
from models.ems_yolo import EMSConfig
from models.head import Detect
from models.spikeyolo import SIZES, SpikeYOLO, SpikeYOLOConfig, resolve_config
from models.unpickle import StandIn, module_tensors, read_inert

#: Where files hold a network or its tensors, the best first.
NETWORK_KEYS = ("ema", "model", "state_dict", "model_state_dict")
#: What the authors call the parts of a module, by our class; parts not listed keep their name.
#: Their layers are numbered; 11, 13, 15, 17, 21 and 24 (up, cat) have no weights.
THEIR_PARTS: dict[type[nn.Module], dict[str, str]] = {
    SpikeYOLO: {
        "down1": "model.1",
        "stage1": "model.2",
        "down2": "model.3",
        "stage2": "model.4",
        "down3": "model.5",
        "stage3": "model.6",
        "down4": "model.7",
        "stage4": "model.8",
        "sppf": "model.9",
        "reduce5": "model.10",
        "top4": "model.12",
        "reduce4": "model.14",
        "top3": "model.16",
        "reduce3": "model.18",
        "out3": "model.19",
        "down_to4": "model.20",
        "out4": "model.22",
        "down_to5": "model.23",
        "out5": "model.25",
        "head": "model.26",
    },
    Downsample: {"neuron": "encode_lif", "conv": "encode_conv", "bn": "encode_bn"},
    SpikeConv: {"neuron": "lif"},
    SepConv: {
        "neuron1": "lif1",
        "pointwise": "pwconv1",
        "neuron2": "lif2",
        "depthwise": "dwconv2",
        "neuron3": "lif3",
        "rep": "pwconv3",
    },
    RepConv: {
        "pointwise_in": "body.0",
        "bn_pad": "body.1",
        "depthwise": "body.2.0",
        "pointwise_out": "body.2.1",
        "bn": "body.2.2",
    },
    SepRepConv: {"bn_pad": "body.0", "pointwise": "body.1.0", "depthwise": "body.1.1"},
    AllConvBlock: {"mixer": "Conv"},
    ConvBlock: {"mixer": "Conv", "neuron1": "lif1", "neuron2": "lif2"},
    SPPF: {"conv1": "cv1", "conv2": "cv2"},
    Detect: {"box": "cv2", "cls": "cv3"},
}
STEM = "model.1.encode_conv.weight"
CLASSES = "model.26.cv3.0.2.conv.weight"
FROZEN = {"model.26.dfl.conv.weight": torch.arange(16.0).view(1, 16, 1, 1)}
COCO_CLASSES = 80


def module_names(module: nn.Module, ours: str = "", theirs: str = "") -> Iterator[tuple[str, str]]:
    """Our name and the authors' name of a module and of every module inside it."""
    yield ours, theirs
    parts = THEIR_PARTS.get(type(module)) or ems_parts(module)
    single = type(module) is nn.Sequential and len(module) == 1  # theirs: the block alone
    for name, child in module.named_children():
        inside = [key for key in parts if key.startswith(f"{name}.")]  # parts of a part
        for path in inside or [name]:
            their_path = [theirs, "" if single else parts.get(path, path)]
            part = module.get_submodule(path) if inside else child
            yield from module_names(
                part, f"{ours}.{path}".lstrip("."), ".".join(filter(None, their_path))
            )


def tensor_names(module: nn.Module) -> dict[str, str]:
    """Our name -> the authors' name of every tensor in the state_dict of a module."""
    theirs = dict(module_names(module))
    names = {}
    for name in module.state_dict():
        owner, _, tensor = name.rpartition(".")
        names[name] = f"{theirs[owner]}.{tensor}".lstrip(".")
    return names


def infer_config(
    state: dict[str, Tensor], variant: str | None = None
) -> SpikeYOLOConfig | EMSConfig:
    """The configuration of the network that a state_dict of either authors belongs to.

    Read off the names and shapes of its tensors. Raises ValueError if a telling one is absent or
    misshapen, or of no published width.
    """
    infer = infer_ems_config if is_ems(state) else infer_spikeyolo_config
    return infer(state, variant)


def infer_spikeyolo_config(state: dict[str, Tensor], variant: str | None = None) -> SpikeYOLOConfig:
    """Size, classes, channels and variant.

    Sizes p, n and s have the same layers in both variants, so there, with `variant` None, 80
    classes mean "coco" and any other number "gen1"; in m and l the blocks of layer 8 tell.
    """
    for name in (STEM, CLASSES):
        if name not in state:
            raise ValueError(f"missing tensor {name!r}: this is not a SpikeYOLO state_dict")
        if state[name].dim() != 4:
            shape = tuple(state[name].shape)
            raise ValueError(f"tensor {name!r} has shape {shape}, expected [out, in, k, k]")
    width, in_channels = state[STEM].shape[:2]
    num_classes = state[CLASSES].shape[0]
    sizes = [size for size, config in SIZES.items() if round(128 * config.width) == width]
    if not sizes:
        raise ValueError(f"{STEM!r} has {width} channels, expected those of a size in {[*SIZES]}")
    if variant is None:
        three_blocks_in_layer8 = any(name.startswith("model.8.1.") for name in state)
        same_layers = max(round(3 * SIZES[sizes[0]].depth), 1) == 1
        is_coco = num_classes == COCO_CLASSES if same_layers else three_blocks_in_layer8
        variant = "coco" if is_coco else "gen1"
    return resolve_config(
        sizes[0], variant=variant, num_classes=num_classes, in_channels=in_channels
    )


def convert_state_dict(
    state: dict[str, Tensor], config: DetectorConfig | None = None
) -> dict[str, Tensor]:
    """The authors' state_dict (names with their leading `model.`) -> one for `build_model`.

    Tensors keep their dtype; the constants of their heads (distance bins, anchors) are checked
    and left out. Load it with `load_state_dict(..., strict=True)` into the network of `config`,
    by default that of `infer_config`. Raises ValueError naming, as the authors do, a missing,
    extra or misshapen tensor.
    """
    config = config or infer_config(state)
    with torch.device("meta"):
        network = build_network(config)
    constants = ems_constants(config) if isinstance(config, EMSConfig) else FROZEN
    names = tensor_names(network)
    shapes = {names[ours]: tensor.shape for ours, tensor in network.state_dict().items()}
    shapes |= {theirs: constant.shape for theirs, constant in constants.items()}
    for theirs, shape in shapes.items():
        if theirs not in state:
            raise ValueError(f"missing tensor {theirs!r}, expected one of shape {tuple(shape)}")
        if state[theirs].shape != shape:
            found = tuple(state[theirs].shape)
            raise ValueError(f"tensor {theirs!r} has shape {found}, expected {tuple(shape)}")
    for theirs in state:
        if theirs not in shapes:
            raise ValueError(f"extra tensor {theirs!r}: the network has no place for it")
    for theirs, constant in constants.items():
        if not torch.equal(state[theirs].to(constant), constant):
            wanted = f"{constant.min():g}..{constant.max():g}"
            raise ValueError(f"tensor {theirs!r} holds other values than {wanted}")
    return {ours: state[theirs] for ours, theirs in names.items()}


class Found(NamedTuple):
    """The tensors of one of the authors' files and, in words, which of its objects held them."""

    state: dict[str, Tensor]
    held_by: str


def read_authors_file(path: Path) -> Found:
    """Read a published `.pt` (pickled network objects) or a plain state_dict file.

    Takes the averaged network ("ema") where there is one, else the first of NETWORK_KEYS. Nothing
    in the file is executed. Raises ValueError, naming the file, if it holds none of them.
    """
    content = read_inert(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a dict")
    for key in NETWORK_KEYS:
        network = content.get(key)
        if isinstance(network, StandIn):
            tensors = without_wrappers(module_tensors(network))
            return Found(tensors, f"{type(network).__name__} under {key!r}")
        if is_state_dict(network):
            return Found(without_wrappers(network), f"state_dict under {key!r}")
    if is_state_dict(content):
        return Found(without_wrappers(content), "plain state_dict")
    keys = "', '".join(NETWORK_KEYS)
    raise ValueError(f"{path}: holds keys {[*content][:5]}, expected '{keys}' or tensors")


def without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors by the names the authors give them: `model.0...`, whatever wrapped the network.

    DDP, torch.compile and Lightning put `module.`, `_orig_mod.`, `model.` before every name.
    """
    wrapper = re.match(r"(?:[A-Za-z_]\w*\.)*?(?=model\.\d+\.)", next(iter(state)))
    prefix = wrapper[0] if wrapper else ""
    if not all(name.startswith(prefix) for name in state):
        return state
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def is_state_dict(content: object) -> TypeGuard[dict[str, Tensor]]:
    return (
        isinstance(content, dict)
        and len(content) > 0
        and all(isinstance(tensor, Tensor) for tensor in content.values())
    )


def authors_histogram(config: DetectorConfig) -> dict[str, object] | None:
    """The settings of preprocessing that give the authors' Gen1 frames; None for COCO images."""
    if config.variant != "gen1":
        return None
    return {
        "window_us": 250_000,
        "time_steps": config.time_steps,
        "representation": "last-polarity" if config.in_channels == 3 else "count",
        "downsample": 1,
        "height": 240,
        "width": 304,
    }


def published_name(config: SpikeYOLOConfig | EMSConfig) -> str:
    if isinstance(config, EMSConfig):
        return ems_name(config)
    (size,) = (size for size, published in SIZES.items() if published.width == config.width)
    return f"spikeyolo-{size}"


def convert_file(
    path: Path, out: Path, variant: str | None, time_steps: int | None, max_spikes: int | None
) -> str:
    """Write the authors' file as our checkpoint; returns what was found, in one line."""
    found = read_authors_file(path)
    try:
        config = infer_config(found.state, variant)
        given: dict[str, Any] = {"max_spikes": max_spikes, "time_steps": time_steps}
        config = replace(config, **{k: v for k, v in given.items() if v is not None})
        weights = convert_state_dict(found.state, config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    network = build_network(config)
    network.load_state_dict(weights)
    frames = "ternary" if isinstance(config, EMSConfig) else "authors"
    meta = {
        "name": published_name(config),
        "source": path.name,
        "histogram": authors_histogram(config),
        "input": frames if config.in_channels == 3 else "histogram",
    }
    save_checkpoint(out, config, network.state_dict(), meta)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    frozen = "" if isinstance(config, EMSConfig) else " with the 16 frozen ones"
    parameters += 16 if frozen else 0
    return (
        f"{path}: {found.held_by}: {meta['name']}, variant {config.variant}, "
        f"{config.num_classes} classes, {config.in_channels} input channels, "
        f"{parameters:,} parameters{frozen}; written to {out}"
    )


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.authors",
        description="Turn a checkpoint of the SpikeYOLO or EMS-YOLO authors into one of ours. "
        "Nothing in their file is executed.",
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="their .pt file, or a state_dict saved by torch.save")
    add("out", type=Path, help="file to write")
    add("--variant", choices=("coco", "gen1"), help="default: read off the tensors")
    add(
        "--time-steps",
        type=int,
        help="T it was trained with (default: 1 for coco, 4 for gen1; EMS-YOLO: 4 and 5)",
    )
    add("--max-spikes", type=int, help="D it was trained with (default: 4; EMS-YOLO: 1)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    given = command_line().parse_args(arguments)
    try:
        print(
            convert_file(
                given.checkpoint, given.out, given.variant, given.time_steps, given.max_spikes
            )
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
