"""A run from its command to its end: with whose weights it begins, and with which processes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gen1 import command
from gen1.ending import end_workers
from models.checkpoint import checkpoint_file, load_checkpoint
from models.detector import DetectorConfig, DetectorNetwork
from models.device import pick_device
from models.start import start_from
from training import options
from training.config import RunConfig
from training.ranks import Ranks, find_ranks
from training.saving import Interrupted, has_begun


def begin(model: DetectorNetwork, config: RunConfig, ranks: Ranks) -> dict[str, Any]:
    """Give a run that has not begun the weights of `config.init`; what run.json says of it."""
    if config.init is None or has_begun(config.output):
        return {}
    path = checkpoint_file(config.init)
    start = start_from(model, load_checkpoint(path), str(path))
    if ranks.is_main:
        print(f"begun from {path}: {start.in_words()}", flush=True)
    return {"init": {"file": str(path), **start._asdict(), "taken": len(start.taken)}}


def attend(config: RunConfig, ranks: Ranks, run: Callable[[], Path]) -> None:
    """Meet the other processes, run, part from them; the best checkpoint's path is printed."""
    try:
        ranks.join(cuda=pick_device(config.device).type == "cuda")
        best = run()
    except Interrupted:  # all ranks agreed on it
        ranks.leave()
        raise
    finally:
        end_workers()
    ranks.leave()
    if ranks.is_main:
        print(f"best: {best}")


def from_words(
    words: Sequence[str],
    chosen: Callable[[Sequence[str]], DetectorConfig],
    command_line: Callable[[DetectorConfig], command.CommandLine],
    settings: type[options.Config],
    run: Callable[[options.Config, Ranks], Path],
) -> int:
    """Run what a command line asks for; the exit code: 0, 1 after an error, 130 when interrupted.

    chosen: the network that the words name; command_line: the options that go with it.
    """
    ranks = find_ranks()
    try:
        published = chosen(words)
    except ValueError as error:
        return ranks.fail(error)

    def act(**given: Any) -> None:
        config = options.config_from(settings, published, **given)
        attend(config, ranks, lambda: run(config, ranks))

    return command.run(
        command_line(published),
        act,
        words,
        interrupted="the same command continues from here" if ranks.is_main else "",
        failed=ranks.fail,
    )
