"""A checkpoint small enough to pass on: `python -m models.share RUN --output FILE`.

What continuing the run needs is left out and weights of convolutions are rounded to float16; batch
norms, configuration and provenance stay as they are. `load_model` reads it like any other.
"""

from pathlib import Path

import torch
from torch import Tensor

from models.checkpoint import checkpoint_file, load_checkpoint, save_checkpoint


def rounded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Kernels in float16, everything with fewer axes as it is. ValueError if one overflows."""
    halves = {name: w.half() if w.dim() > 1 else w for name, w in weights.items()}
    for name, half in halves.items():
        if not torch.isfinite(half).all():
            raise ValueError(f"{name}: a weight beyond the range of float16, 65504")
    return halves


def share(source: str | Path, target: str | Path) -> str:
    """Write the small copy of a checkpoint, or of a run's best.pt; says how large it is.

    Raises ValueError for a file that is none and for a target that would replace it.
    """
    source, target = checkpoint_file(source), Path(target)
    config, weights, meta, _, kind = load_checkpoint(source)
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target}: is the checkpoint itself, expected another --output")
    save_checkpoint(target, config, rounded(weights), meta, kind=kind)
    return f"{target}: {target.stat().st_size / 1e6:.1f} MB"
