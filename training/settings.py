"""Settings of a run as plain data: compared, hashed."""

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any


def plain(config: Any) -> dict[str, Any]:
    """A dataclass of settings as JSON would hold it."""
    return json.loads(json.dumps(asdict(config), default=str))


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


def refuse_other_settings(
    path: Path, found: dict[str, Any], asked: dict[str, Any], free: Collection[str]
) -> None:
    """ValueError naming the settings in which a saved run differs, except the `free` ones."""
    saved = dict(flat(found))
    differing = [
        f"{name} {saved.get(name)!r}, not {value!r}"
        for name, value in flat(asked)
        if name not in free and saved.get(name) != value
    ]
    if differing:
        raise ValueError(
            f"{path}: begun with {'; '.join(differing)}: "
            f"give the same settings to continue, or another output"
        )
