"""A run from its command to its end: its network, its task, its processes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from gen1 import command
from gen1.atomic import make_writable
from gen1.ending import end_workers
from models import build_network
from models.detector import DetectorConfig, DetectorNetwork
from models.device import pick_device
from training import options
from training.config import RunConfig
from training.loop import Trainer
from training.options import Config
from training.others import begin, refuse_own_output, taught_by
from training.ranks import Ranks, find_ranks
from training.saving import Interrupted, seed_everything
from training.task import Task

TaskOf = Callable[[Config, DetectorNetwork, Ranks], tuple[Task, dict[str, Any]]]


def trainer_of(config: Config, ranks: Ranks, task_of: TaskOf[Config]) -> Trainer:
    """The run that a configuration asks for, at its beginning.

    task_of: config, model and ranks -> the task, and what checkpoints say of its data.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    refuse_own_output(config)
    make_writable(config.output)
    seed_everything(config.seed)
    model = build_network(config.model)
    task, about = task_of(config, model, ranks)
    started = begin(model, config, about, ranks)
    trainer = Trainer(config, model, task, {**about, **taught_by(config, about)}, ranks)
    trainer.begun_from = started
    return trainer


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
    settings: type[Config],
    run: Callable[[Config, Ranks], Path],
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
