"""The command `python -m models.authors`: a published file as one of our checkpoints."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from models import build_network
from models.authors import convert_state_dict, infer_config
from models.authors.files import read_authors_file
from models.checkpoint import save_checkpoint
from models.detector import DetectorConfig
from models.ems.network import EMSConfig


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


def convert_file(
    path: str | Path,
    out: str | Path,
    variant: str | None,
    time_steps: int | None,
    max_spikes: int | None,
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
        "source": Path(path).name,
        "histogram": authors_histogram(config),
        "input": frames if config.in_channels == 3 else "histogram",
    }
    save_checkpoint(out, config, network.state_dict(), meta)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    frozen = "" if isinstance(config, EMSConfig) else " with the 16 frozen ones"
    parameters += 16 if frozen else 0
    return (
        f"{path}: {found.held_by}: {config.name}, variant {config.variant}, "
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
