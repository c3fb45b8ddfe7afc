"""Settings of a run as plain data, compared."""

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.provenance import flat

MORE = "epochs"
#: What a run may change when it goes on.
WORDS = {MORE: "extended from {} to {} epochs", "processes": "processes {} -> {}"}


def plain(config: Any) -> dict[str, Any]:
    """A dataclass of settings as JSON would hold it."""
    return json.loads(json.dumps(asdict(config), default=str))


def changes(
    path: Path,
    found: dict[str, Any],
    asked: dict[str, Any],
    free: Collection[str],
    allowed: bool,
) -> str:
    """How a continued run is to differ from its beginning, "" if not, `free` settings left out.

    Only more epochs and another number of processes are possible, if `allowed`. Raises ValueError
    that names any other difference.
    """
    saved = dict(flat(found))
    differing = {
        name: (saved.get(name), value)
        for name, value in flat(asked)
        if name not in free and saved.get(name) != value
    }
    possible = {n for n, (old, new) in differing.items() if n in WORDS and (n != MORE or new > old)}
    if refused := {n: pair for n, pair in differing.items() if not allowed or n not in possible}:
        begun = "; ".join(f"{name} {old!r}, not {new!r}" for name, (old, new) in refused.items())
        hint = ", or --continue_changed true to go on so" if differing.keys() == possible else ""
        expected = f"give the same settings to continue, or another output{hint}"
        raise ValueError(f"{path}: begun with {begun}: {expected}")
    return ", ".join(WORDS[name].format(*pair) for name, pair in differing.items())
