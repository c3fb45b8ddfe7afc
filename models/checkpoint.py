"""Weights and the configuration they belong to, in one file without pickled code."""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models import build_network, family
from models.deploy import deploy
from models.detector import DetectorConfig, DetectorNetwork

FORMAT = "spikeyolo-gen1 checkpoint, version 1"
#: Whose weights a file holds: those of the network as trained, or of `deploy` of it.
KINDS = ("trained", "deployed")
#: What a run goes on from.
RUN_STATE = ("last.pt", "previous.pt")


class Checkpoint(NamedTuple):
    """`weights` to evaluate with, the `config` of their network, `meta` (plain data: how they
    came about), `training` (tensors and plain data needed to continue; may be empty) and the
    `kind` of the network, one of KINDS."""

    config: DetectorConfig
    weights: dict[str, Tensor]
    meta: dict[str, Any]
    training: dict[str, Any]
    kind: str = "trained"


def save_checkpoint(
    path: str | Path,
    config: DetectorConfig,
    weights: Mapping[str, Tensor],
    meta: Mapping[str, Any],
    training: Mapping[str, Any] | None = None,
    kind: str = "trained",
) -> None:
    """Write to a temporary name, sync to disk, rename: `path` is whole or untouched."""
    content = {
        "format": FORMAT,
        "kind": kind,
        "network": config.family,
        "config": asdict(config),
        "weights": dict(weights),
        "meta": {"name": config.name, **meta},
        "training": dict(training or {}),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def checkpoint_file(path: Path | str) -> Path:
    """`path`, or the best.pt of the run directory that it is."""
    path = Path(path)
    return path / "best.pt" if path.is_dir() else path


def refuse_run_state(target: Path) -> None:
    """ValueError for a file that a run goes on from: nothing else may replace it."""
    if target.name in RUN_STATE and target.exists():
        raise ValueError(f"{target}: a run goes on from it, expected another --output")


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint to the CPU; no code in the file is ever run.

    Raises ValueError, naming the file, if it is absent, damaged or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such checkpoint")
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # torch reads on where a byte has changed
        if damaged:
            raise ValueError(damaged)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything at all
        reason = type(error).__name__
        raise ValueError(f"{path}: not a readable checkpoint ({reason})") from None
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if found != FORMAT:
        raise ValueError(f"{path}: found format {found!r}, expected {FORMAT!r}")
    try:
        network = family(content.get("network", "spikeyolo"))  # older files do not say
        named = {"name": content["meta"].get("name", "")}  # in older files it stands there
        config = network.config(**{**named, **content["config"]})
        kind = content.get("kind", "trained")  # nor that
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}, expected one of {', '.join(KINDS)}")
        weights = content["weights"]
        for name, tensor in weights.items():
            if not torch.isfinite(tensor).all():
                raise ValueError(f"{name} is not finite")
        return Checkpoint(config, weights, dict(content["meta"]), dict(content["training"]), kind)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged checkpoint ({error})") from None


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load strictly; ValueError names the first missing, extra or misshapen tensor."""
    expected = model.state_dict()
    for name in [*expected, *weights]:
        found = tuple(weights[name].shape) if name in weights else "no such tensor"
        wanted = tuple(expected[name].shape) if name in expected else "no such tensor"
        if found != wanted:
            raise ValueError(f"{source}: weights of another model: {name}: {found}, not {wanted}")
    model.load_state_dict(dict(weights))


def load_model(path: Path | str) -> tuple[DetectorNetwork, Checkpoint]:
    """The network of a checkpoint, in evaluation mode on the CPU, and all else the file says.

    A deployed checkpoint gives the deployed network.
    """
    checkpoint = load_checkpoint(path)
    model = network_of(checkpoint)
    load_weights(model, checkpoint.weights, Path(path))
    return model.eval(), checkpoint


def network_of(checkpoint: Checkpoint) -> DetectorNetwork:
    """The checkpoint's kind of network on the CPU, still with other weights."""
    if checkpoint.kind == "trained":
        return build_network(checkpoint.config)
    with torch.device("meta"):  # only the structure is wanted: nothing to draw, nothing to fold
        model = build_network(checkpoint.config)
    return deploy(model).to_empty(device="cpu")
