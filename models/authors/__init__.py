"""The SpikeYOLO, EMS-YOLO and Spike2Former authors' weights as ours, strict in both directions.

`python -m models.authors CHECKPOINT OUT` turns one of their published files into a checkpoint.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models import build_network
from models.authors.ems import ems_constants, ems_parts, infer_ems_config, is_ems
from models.authors.spike2former import (
    THEIR_TENSORS,
    infer_spike2former_config,
    is_spike2former,
    spike2former_parts,
    their_shape,
)
from models.authors.spikeyolo import FROZEN, THEIR_PARTS, infer_spikeyolo_config
from models.detector import DetectorConfig
from models.ems.network import EMSConfig
from models.spike2former.network import Spike2FormerConfig
from models.spikeyolo import SpikeYOLOConfig

__all__ = ["FROZEN", "convert_state_dict", "infer_config", "tensor_names"]


def module_names(module: nn.Module, ours: str = "", theirs: str = "") -> Iterator[tuple[str, str]]:
    """Our name and the authors' name of a module and of every module inside it."""
    yield ours, theirs
    parts = THEIR_PARTS.get(type(module)) or ems_parts(module) or spike2former_parts(module)
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
        called = THEIR_TENSORS.get(type(module.get_submodule(owner)), {})
        names[name] = f"{theirs[owner]}.{called.get(tensor, tensor)}".lstrip(".")
    return names


def infer_config(
    state: dict[str, Tensor], variant: str | None = None
) -> SpikeYOLOConfig | EMSConfig | Spike2FormerConfig:
    """The configuration of the network that a state_dict of one of the authors belongs to.

    Read off the names and shapes of its tensors. Raises ValueError if a telling one is absent or
    misshapen, or of no published width.
    """
    if is_spike2former(state):
        return infer_spike2former_config(state, variant)
    infer = infer_ems_config if is_ems(state) else infer_spikeyolo_config
    return infer(state, variant)


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
    constants = constants_of(config)
    names = tensor_names(network)
    ours_shaped = {name: tensor.shape for name, tensor in network.state_dict().items()}
    shapes = {names[ours]: shape for ours, shape in ours_shaped.items()}
    if isinstance(config, Spike2FormerConfig):
        shapes = {theirs: their_shape(theirs, shape) for theirs, shape in shapes.items()}
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
    return {ours: state[theirs].view(ours_shaped[ours]) for ours, theirs in names.items()}


def constants_of(config: DetectorConfig) -> dict[str, Tensor]:
    """What their state_dict holds and ours does not."""
    if isinstance(config, EMSConfig):
        return ems_constants(config)
    return FROZEN if isinstance(config, SpikeYOLOConfig) else {}
