"""The command `python -m models.memory`: a trained network with a memory that has not learnt."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from gen1 import command
from gen1.atomic import make_way
from models import build_network
from models.checkpoint import (
    checkpoint_file,
    load_checkpoint,
    refuse_run_state,
    save_checkpoint,
)
from models.spikeyolo import SpikeYOLOConfig
from models.start import start_from


def remember(checkpoint: str | Path, output: str | Path | None = None, events: float = 4.0) -> str:
    """Write a trained SpikeYOLO with a memory that repeats what it heard; returns a summary.

    Args:
        checkpoint: Checkpoint, or run directory (its best.pt), without memory.
        output: File to write, remembers.pt beside the checkpoint if not given.
        events: Events a px of a window above which the memory hears what comes and forgets.

    Raises ValueError, writing nothing, for another network and for a target that would replace it.
    """
    source = checkpoint_file(checkpoint)
    target = Path(output) if output else source.with_name("remembers.pt")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target}: is the checkpoint without memory, expected another --output")
    refuse_run_state(target)
    make_way(target)
    trained = load_checkpoint(source)
    if (seen := trained.meta.get("input", "histogram")) != "histogram":
        raise ValueError(f"{source}: reads the input {seen!r}, expected histogram: events to hear")
    found = trained.config
    if not isinstance(found, SpikeYOLOConfig) or found.memory != "none":
        holds = f"{found.name!r} with memory {getattr(found, 'memory', 'none')!r}"
        raise ValueError(f"{source}: holds {holds}, expected a SpikeYOLO without memory")
    kind: Literal["gru", "spiking"] = "gru" if found.activation == "relu" else "spiking"
    try:
        model = build_network(replace(found, memory=kind, memory_events=events))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    started = start_from(model, trained, str(source))
    meta = {**trained.meta, "remembers_from": str(source)}
    save_checkpoint(target, model.config, model.state_dict(), meta)
    taken = f"{len(started.taken)} tensors of {source}"
    return f"{target}: {taken}, memory {kind!r} before the head; with --carry-state it remembers"


main = command.entry(
    "python -m models.memory",
    "Give a trained SpikeYOLO a memory: where no events come, it shows the head what it heard\n"
    "last. Nothing is trained. eval_gen1.py and detect_gen1.py --carry-state use the result\n"
    "like any checkpoint, and train_gen1.py --init begins with it. See docs/memory.md.",
    remember,
)
enter = command.door(main)
if __name__ == "__main__":
    enter()
