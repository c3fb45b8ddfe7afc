"""Settings of a run as plain data, compared."""

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.provenance import flat


def plain(config: Any) -> dict[str, Any]:
    """A dataclass of settings as JSON would hold it."""
    return json.loads(json.dumps(asdict(config), default=str))


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
