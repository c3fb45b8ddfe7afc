"""config.yaml and run.json: what a run is, and every start of it."""

import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from evaluation.provenance import content_hash
from gen1.atomic import atomic_write
from preprocessing.cache import Manifest, writing


def add_start(
    directory: Path,
    config: dict[str, Any],
    settings: dict[str, Any],
    manifest: Manifest,
    more: dict[str, Any],
) -> None:
    """Write config.yaml, and add a start to run.json: command, date, hashes, `more`.

    What a killed run left half written is cleared away.
    """
    for leftover in directory.glob("*.pt.*.tmp"):
        leftover.unlink()
    path = directory / "config.yaml"
    with writing(path), atomic_write(path) as file:
        file.write(yaml.safe_dump(config, sort_keys=False).encode())
    path = directory / "run.json"
    starts = json.loads(path.read_bytes())["starts"] if path.exists() else []
    start = {
        "command": sys.argv,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "config_sha256": content_hash(settings),
        "manifest_sha256": content_hash(asdict(manifest)),
        **more,
    }
    with writing(path), atomic_write(path) as file:
        file.write(json.dumps({"starts": [*starts, start]}, indent=1).encode() + b"\n")
