"""The command `python -m models.authors`: a published file as one of our checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from gen1 import command
from gen1.spec import DatasetSpec, find_spec
from models import build_network
from models.authors import convert_state_dict, infer_config
from models.authors.files import read_authors_file
from models.checkpoint import save_checkpoint
from models.detector import DetectorConfig
from models.ems.network import EMSConfig
from models.spikeyolo import SpikeYOLOConfig


def authors_histogram(config: DetectorConfig, spec: DatasetSpec) -> dict[str, object] | None:
    """The settings of preprocessing that give the authors' Gen1 frames; None for COCO images."""
    if config.variant != "gen1":
        return None
    return {
        "window_us": 250_000,
        "time_steps": config.time_steps,
        "representation": "last-polarity" if config.in_channels == 3 else "count",
        "downsample": 1,
        "height": spec.height,
        "width": spec.width,
    }


def convert_file(
    checkpoint: str | Path,
    out: str | Path,
    variant: Literal["coco", "gen1"] | None = None,
    time_steps: int | None = None,
    max_spikes: int | None = None,
    dataset: str = "gen1",
) -> str:
    """Write the authors' file as our checkpoint; returns what was found, in one line.

    Args:
        checkpoint: Their .pt file, or a state_dict saved by torch.save.
        out: File to write.
        variant: Read off the tensors if not given.
        time_steps: T it was trained with, else 1 for coco, 4 for gen1; EMS-YOLO: 4 and 5.
        max_spikes: D it was trained with, else 4; EMS-YOLO: 1.
        dataset: What it was trained on, a name or a YAML file; not asked for COCO networks.
    """
    spec = find_spec(dataset)
    found = read_authors_file(checkpoint)
    try:
        config = infer_config(found.state, variant)
        given: dict[str, Any] = {"max_spikes": max_spikes, "time_steps": time_steps}
        config = replace(config, **{k: v for k, v in given.items() if v is not None})
        weights = convert_state_dict(found.state, config)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from None
    if config.variant == "gen1" and config.num_classes != len(spec.classes):
        found_classes = f"{checkpoint}: has {config.num_classes} classes"
        raise ValueError(f"{found_classes}, expected those of {spec.name}: {len(spec.classes)}")
    network = build_network(config)
    network.load_state_dict(weights)
    frames = "ternary" if isinstance(config, EMSConfig) else "authors"
    meta = {
        "source": Path(checkpoint).name,
        "histogram": authors_histogram(config, spec),
        "input": frames if config.in_channels == 3 else "histogram",
        "dataset": spec.as_dict() if config.variant == "gen1" else None,
    }
    save_checkpoint(out, config, network.state_dict(), meta)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    frozen = " with the 16 frozen ones" if isinstance(config, SpikeYOLOConfig) else ""
    parameters += 16 if frozen else 0
    return (
        f"{checkpoint}: {found.held_by}: {config.name}, variant {config.variant}, "
        f"{config.num_classes} classes, {config.in_channels} input channels, "
        f"{parameters:,} parameters{frozen}; written to {out}"
    )


main = command.entry(
    "python -m models.authors",
    "Turn a checkpoint of the SpikeYOLO, EMS-YOLO or Spike2Former authors into one of ours.\n"
    "Nothing in their file is executed.",
    convert_file,
)
enter = command.door(main)
if __name__ == "__main__":
    enter()
