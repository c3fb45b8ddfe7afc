"""Cache -> trained detector, alone or under torchrun; the same command continues a run.

Selection is by mAP on the val split; of the test split only names and hashes are read, to find
them missing in train. The loop is `training.loop.Trainer`, the task `training.detection`.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gen1 import command
from models import names
from models.detector import DetectorConfig, DetectorNetwork
from preprocessing.cache import read_manifest
from training import options, running
from training.config import TrainConfig
from training.detection import about_data, detection_task
from training.loop import Trainer
from training.ranks import ALONE, Ranks
from training.task import Task

DESCRIPTION = """Train a detector on a cache of event histograms.
Interrupt it as you like: the same command continues.

  train_gen1.py --config configs/gen1_adamw.yaml --cache CACHE --output RUN
        a recipe; options after it change its settings
  train_gen1.py --cache CACHE --output RUN --model.name ems-res10 --help
        the settings below as they are published for that network
  torchrun --nproc-per-node 8 train_gen1.py --config ...
        the same on eight GPUs

Networks: {}."""
GEN1 = {"name": "spikeyolo-s", "variant": "gen1", "num_classes": 2, "in_channels": 2}


def trainer_of(config: TrainConfig, ranks: Ranks = ALONE) -> Trainer:
    """The run that a configuration asks for, at its beginning."""
    manifest = read_manifest(config.cache)
    config = replace(config, protocol=config.protocol or manifest.dataset.protocol)

    def task_of(
        config: TrainConfig, model: DetectorNetwork, ranks: Ranks
    ) -> tuple[Task, dict[str, Any]]:
        return detection_task(config, model, manifest, ranks), about_data(config, manifest)

    return running.trainer_of(config, ranks, task_of)


def run(config: TrainConfig, ranks: Ranks = ALONE) -> Path:
    """Train, or continue, to the end; returns the best checkpoint's path."""
    trainer_of(config, ranks).run()
    return config.output / "best.pt"


# ------------------------------------------------------------------------------ the command line


def chosen(words: Sequence[str]) -> DetectorConfig:
    """The network that the words name, for as many classes as the cache has."""
    return options.chosen(
        words, GEN1, "cache", lambda cache: len(read_manifest(cache).dataset.classes)
    )


def command_line(published: DetectorConfig) -> command.CommandLine:
    description = DESCRIPTION.format(", ".join(names("detection")))
    return options.command_line("train_gen1.py", description, TrainConfig, published)


def config_of(words: Sequence[str]) -> TrainConfig:
    """The settings that a command line asks for. Raises ValueError for impossible ones."""
    published = chosen(words)
    parser = command_line(published)
    given = vars(parser.instantiate(parser.parse_args(words)))
    given.pop("config", None)
    return options.config_from(TrainConfig, published, **given)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 after an error, 130 when interrupted."""
    words = sys.argv[1:] if argv is None else argv
    return running.from_words(words, chosen, command_line, TrainConfig, run)


enter = command.door(main)
if __name__ == "__main__":
    enter()
