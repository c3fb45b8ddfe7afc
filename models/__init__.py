"""Batch -> maps -> boxes, loss, energy. Imports neither gen1 nor preprocessing."""

from collections.abc import Callable, Mapping
from typing import Any

from models import ems_yolo, spikeyolo
from models.detector import DetectorConfig, DetectorNetwork
from models.ems_yolo import EMSYOLO, EMSConfig
from models.spikeyolo import SpikeYOLO, SpikeYOLOConfig

__all__ = ["build_model", "build_network", "resolve"]

#: What a model's name begins with -> its sizes, how a size becomes a configuration.
FAMILIES: dict[str, tuple[Mapping[str, DetectorConfig], Callable[..., DetectorConfig]]] = {
    "spikeyolo": (spikeyolo.SIZES, spikeyolo.resolve_config),
    "ems": (ems_yolo.SIZES, ems_yolo.resolve_config),
}
#: What a checkpoint calls a family -> its configuration and its network.
NETWORKS: dict[str, tuple[type[DetectorConfig], type[DetectorNetwork]]] = {
    "spikeyolo": (SpikeYOLOConfig, SpikeYOLO),
    "ems": (EMSConfig, EMSYOLO),
}


def resolve(name: str, **overrides: Any) -> DetectorConfig:
    """The configuration of `build_model(name, **overrides)`."""
    family, _, size = name.partition("-")
    known = [f"{f}-{s}" for f, (sizes, _) in FAMILIES.items() for s in sizes]
    if name not in known:
        near = [other for other in known if other.startswith(f"{family}-")]
        raise ValueError(f"model is {name!r}, expected one of {', '.join(near or known)}")
    _, resolve_config = FAMILIES[family]
    return resolve_config(size, **overrides)


def family_of(config: DetectorConfig) -> str:
    """What a checkpoint calls the family of networks this is a configuration of."""
    (family,) = (name for name, (known, _) in NETWORKS.items() if type(config) is known)
    return family


def build_network(config: DetectorConfig) -> DetectorNetwork:
    """A network of this configuration with fresh weights."""
    return NETWORKS[family_of(config)][1](config)


def build_model(name: str, **overrides: Any) -> DetectorNetwork:
    """Build `spikeyolo-{p,n,s,m,l}`, `ems-res{10,18,34}` or `ems-resnet34-cat`, with fresh weights.

    Overrides are the fields of `SpikeYOLOConfig` or `EMSConfig`; those left out or None come from
    the size and from `variant`: "coco" (80 classes, 3 channels) or "gen1" (2 classes, 2 channels;
    SpikeYOLO: T 4, decay .5, input_scale .5, one block in layer 8; EMS-YOLO: T 5, its anchors).
    The model maps x [T, B, C, H, W] to raw maps: [B, 64 + nc, H/s, W/s], s = 8, 16, 32, or
    [B, 3 (5 + nc), H/s, W/s], s = 16, 32. Raises ValueError for an unknown name or setting.
    """
    return build_network(resolve(name, **overrides))
