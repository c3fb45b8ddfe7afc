"""run.json: how a run came about, with every start of it."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.provenance import content_hash
from gen1.atomic import atomic_write
from preprocessing.cache import Manifest


def add_start(
    directory: Path,
    settings: dict[str, Any],
    manifest: Manifest,
    place: dict[str, Any],
    origin: dict[str, Any],
) -> None:
    """Add a start to directory/run.json: command, hashes of settings and cache, place, origin."""
    path = directory / "run.json"
    starts = json.loads(path.read_bytes())["starts"] if path.exists() else []
    start = {
        "command": sys.argv,
        "config_sha256": content_hash(settings),
        "manifest_sha256": content_hash(asdict(manifest)),
        "processes": settings["processes"],
        **place,
        **origin,
    }
    with atomic_write(path) as file:
        file.write(json.dumps({"starts": [*starts, start]}, indent=1).encode() + b"\n")
