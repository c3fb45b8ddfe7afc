"""Networks that a run begins with or is taught by, and what they must share with it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen1.spec import GEN1
from models.checkpoint import checkpoint_file, load_checkpoint
from models.detector import DetectorNetwork
from models.start import rescale_statistics, start_from
from training.config import RunConfig, plain
from training.ranks import Ranks
from training.saving import has_begun

#: Settings of histograms that say when there is a window, not what is in it.
WHEN = ("every_us", "keep")


def refuse_own_output(config: RunConfig) -> None:
    """ValueError for a network to begin with, or a teacher, that the run itself would replace."""
    for name in ("init", "distill"):
        given = getattr(config, name, None)
        if given and checkpoint_file(given).resolve().parent == config.output.resolve():
            raise ValueError(f"{given}: {name} lies in the output of this run, expected elsewhere")


def begin(
    model: DetectorNetwork, config: RunConfig, about: Mapping[str, Any], ranks: Ranks
) -> dict[str, Any]:
    """Give a run that has not begun the weights of `config.init`; what run.json says of it.

    about: what checkpoints will say of the data. Layers of classes begin anew for others of equal
    number. Raises ValueError for a frozen network with products of spikes of another value.
    """
    if config.init is None or has_begun(config.output):
        return {}
    path = checkpoint_file(config.init)
    checkpoint = load_checkpoint(path)
    known, wanted = (what_is_seen(meta).get("classes") for meta in (checkpoint.meta, about))
    start = start_from(model, checkpoint, str(path), other_classes=known not in (None, wanted))
    follow = ""
    if start.factor != 1 and config.freeze != "nothing":
        if model.config.task == "segmentation":
            found = f"its spikes are worth {start.factor:g} of ours, with freeze {config.freeze!r}"
            raise ValueError(f"{path}: {found}, expected nothing frozen: products cannot follow")
        follow = f"; {len(rescale_statistics(model, start.factor))} batch norms follow"
    if ranks.is_main:
        print(f"begun from {path}: {start.in_words()}{follow}", flush=True)
    return {"init": {"file": str(path), **start._asdict(), "taken": len(start.taken)}}


def taught_by(config: RunConfig, about: Mapping[str, Any]) -> dict[str, str]:
    """What checkpoints say of the teacher, so that a continued run has the same one.

    Raises ValueError for one that learnt other classes, or windows of another kind.
    """
    if not (given := getattr(config, "distill", None)):
        return {}
    path = checkpoint_file(given)
    theirs, ours = (what_is_seen(meta) for meta in (load_checkpoint(path).meta, plain(about)))
    for name, wanted in ours.items():
        if name in theirs and theirs[name] != wanted:
            raise ValueError(f"{path}: a teacher of {name} {theirs[name]!r}, expected {wanted!r}")
    return {"teacher_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


def what_is_seen(meta: Mapping[str, Any]) -> dict[str, Any]:
    """By name what a network reads and finds, where its checkpoint says so."""
    if not any(meta.get(kind) for kind in ("histogram", "images", "masks")):
        return {}
    windows = {k: v for k, v in (meta.get("histogram") or {}).items() if k not in WHEN}
    return {**windows, "input": meta.get("input", "pictures"), "classes": classes_of(meta)}


def classes_of(meta: Mapping[str, Any]) -> list[str]:
    """Names of the classes a checkpoint knows; Gen1's where an older one does not say."""
    if "images" in meta:
        return [*meta["images"].get("categories", [])]
    return [*(meta.get("masks") or meta.get("dataset") or GEN1.as_dict())["classes"]]
