"""Batch -> maps -> boxes, loss, energy. Imports neither gen1 nor preprocessing."""

from importlib import import_module
from typing import Any

from models.detector import DetectorConfig, DetectorNetwork, Family

__all__ = ["build_model", "build_network", "resolve"]

#: What names of models begin with, and checkpoints call a network -> where its `FAMILY` stands.
FAMILIES = {
    "spikeyolo": "models.spikeyolo",
    "ems": "models.ems.network",
    "spike2former": "models.spike2former.network",
}


def family(name: str) -> Family:
    """Imported when it is asked for. Raises ValueError for an unknown one."""
    if name not in FAMILIES:
        raise ValueError(f"network is {name!r}, expected one of {', '.join(FAMILIES)}")
    return import_module(FAMILIES[name]).FAMILY


def family_of(name: str) -> Family:
    """The family of a network's name."""
    return family(_parts(name)[0])


def resolve(name: str, **overrides: Any) -> DetectorConfig:
    """The configuration of `build_model(name, **overrides)`."""
    prefix, size = _parts(name)
    return family(prefix).published(size, {**overrides, "name": name})


def names(task: str = "") -> list[str]:
    """Of all networks that can be built, or of those of one task."""
    families = [prefix for prefix in FAMILIES if task in ("", family(prefix).config.task)]
    return [f"{prefix}-{size}" for prefix in families for size in family(prefix).sizes]


def _parts(name: str) -> tuple[str, str]:
    """Family and size. Raises ValueError for an unknown name."""
    prefix, _, size = name.partition("-")
    if prefix not in FAMILIES or size not in family(prefix).sizes:
        near = [prefix] if prefix in FAMILIES else FAMILIES
        known = [f"{other}-{size}" for other in near for size in family(other).sizes]
        raise ValueError(f"model is {name!r}, expected one of {', '.join(known)}")
    return prefix, size


def build_network(config: DetectorConfig) -> DetectorNetwork:
    """A network of this configuration with fresh weights."""
    return family(config.family).network(config)


def build_model(name: str, **overrides: Any) -> DetectorNetwork:
    """Build `spikeyolo-{p,n,s,m,l}`, `ems-res{10,18,34}`, `spike2former-15m`..., fresh weights.

    Overrides are the fields of `SpikeYOLOConfig`, `EMSConfig` or `Spike2FormerConfig`; those left
    out or None come from the size and from `variant`: "coco" (80 classes, 3 channels) or "gen1" (2
    classes, 2 channels; SpikeYOLO: T 4, decay .5, input_scale .5, one block in layer 8; EMS-YOLO: T
    5, its anchors). The model maps x [T, B, C, H, W] to raw maps: [B, 64 + nc, H/s, W/s], s = 8,
    16, 32, or [B, 3 (5 + nc), H/s, W/s], s = 16, 32; Spike2Former's segment: see there.
    Raises ValueError for an unknown name or setting.
    """
    return build_network(resolve(name, **overrides))
