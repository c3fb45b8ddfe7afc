"""Batch -> maps -> boxes, loss, energy. Imports neither gen1 nor preprocessing."""

from models.spikeyolo import SIZES, SpikeYOLO, resolve_config

__all__ = ["build_model"]

FAMILY = "spikeyolo-"


def build_model(name: str, **overrides: object) -> SpikeYOLO:
    """Build `spikeyolo-{p,n,s,m,l}` with fresh weights.

    Overrides are the fields of `SpikeYOLOConfig`; those left out or None come from the size and
    from `variant`: "coco" (80 classes, 3 channels, decay .25, input_scale 1, three blocks in
    layer 8) or "gen1" (2 classes, 2 channels, T 4, decay .5, input_scale .5, one block there).
    The model maps x [T, B, C, H, W] to raw maps [B, 64 + nc, H/s, W/s], s = 8, 16, 32.
    Raises ValueError for an unknown name or setting.
    """
    if not name.startswith(FAMILY):
        known = ", ".join(FAMILY + size for size in SIZES)
        raise ValueError(f"model is {name!r}, expected one of {known}")
    return SpikeYOLO(resolve_config(name.removeprefix(FAMILY), **overrides))
