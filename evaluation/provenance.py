"""Where a number comes from: the commit, the settings, the rule, the machine, the packages."""

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "spikingjelly", "numpy", "pycocotools")


def commit() -> str:
    """Short hash of the checked-out commit, "+changes" if files differ, "unknown" outside git."""
    try:
        revision = _git("rev-parse", "--short=10", "HEAD")
        return revision + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def environment() -> dict[str, str]:
    """Python, machine and package versions, as plain strings."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in PACKAGES},
    }


def content_hash(settings: Any) -> str:
    """SHA-256 of plain data, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as ("optim.lr", 0.02)."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


#: Settings that older runs do not know: how those were trained.
EARLIER = {"freeze": "nothing", "energy_weight": 0.0, "init": None}
EARLIER |= {"distill": None, "distill_weight": 1.0}


def training_settings(metrics: dict[str, Any]) -> dict[str, Any] | None:
    """What metrics.json knows of the training, without the seed; None if nothing.

    Runs begun with, or taught by, a network of their own seed (start/0, start/1) are of one kind.
    """
    settings = metrics["trained"].get("settings")
    if not settings:
        return None
    settings = without_unused(settings)
    found = {**EARLIER, **settings, "optim": {"backbone_lr": 1.0, **settings.get("optim", {})}}
    seed = found.pop("seed", None)
    for name in ("init", "distill"):
        if found[name] and Path(found[name]).name == str(seed):
            found[name] = str(Path(found[name]).parent)
    return found


def evaluated_settings(metrics: dict[str, Any]) -> dict[str, Any]:
    """All of metrics.json that says what was run and how detections were made."""
    found = {name: metrics[name] for name in ("model", "network", "histogram", "input", "detect")}
    if metrics.get("carry_state"):
        found["carry_state"] = True
    network = without_unused({"model": found["network"]})["model"]
    return {**found, "network": {"bins_per_step": 1, "shown": 1, **network}}


def without_unused(settings: dict[str, Any]) -> dict[str, Any]:
    """A run's settings without those of memory, clips and backbone that older runs do not know.

    Nor with where masks lie and how many are drawn, which older runs of segmentation noted.
    """
    found = {name: value for name, value in settings.items() if name not in ("masks", "shown")}
    if not found.get("stream", {}).get("clip"):
        found.pop("stream", None)
    model = found.get("model")
    if isinstance(model, dict):
        unused = ["backbone"] if model.get("backbone", "meta") == "meta" else []
        if model.get("memory", "none") == "none":
            unused += ["memory", "memory_kernel", "memory_events"]
        found["model"] = {name: value for name, value in model.items() if name not in unused}
    return found


def config_hash(metrics: dict[str, Any]) -> str:
    """Eight hex digits that runs share if they differ in nothing but the seed."""
    training = training_settings(metrics)
    return content_hash({**evaluated_settings(metrics), "training": training})[:8]


def thresholds(detect: dict[str, Any]) -> str:
    """How detections were made, in words; of a network without any, that each pixel counts."""
    if not detect:
        return "every labelled pixel counts once"
    return (
        f"score >= {detect['score_threshold']}, NMS at IoU {detect['iou_threshold']}, "
        f"at most {detect['max_detections']} boxes a frame"
    )


def rule_of(metrics: dict[str, Any]) -> str:
    """The rule behind the headline figures of metrics.json, in one line."""
    return (
        f"split {metrics['split']}, protocol {metrics['protocol']}, "
        f"{thresholds(metrics['detect'])}, commit {metrics['commit']}, "
        f"config {metrics['config_hash']}"
    )
