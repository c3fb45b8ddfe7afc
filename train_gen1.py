"""Cache -> trained detector, alone or under torchrun; the same command continues a run.

Selection is by mAP on the val split; of the test split only names and hashes are read, to find
them missing in train. The loop is `training.loop.Trainer`, the task `training.detection`.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from gen1 import command
from gen1.atomic import make_writable
from models import build_network, names
from models.detector import DetectorConfig
from preprocessing.cache import read_manifest
from training import options
from training.config import TrainConfig
from training.detection import about_data, detection_task
from training.loop import Trainer
from training.ranks import ALONE, Ranks
from training.running import begin, from_words
from training.saving import seed_everything

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
    if config.threads:
        torch.set_num_threads(config.threads)
    make_writable(config.output)
    seed_everything(config.seed)
    manifest = read_manifest(config.cache)
    config = replace(config, protocol=config.protocol or manifest.dataset.protocol)
    model = build_network(config.model)
    started = begin(model, config, ranks)
    task = detection_task(config, model, manifest, ranks)
    trainer = Trainer(config, model, task, about_data(config, manifest), ranks)
    trainer.begun_from = started
    return trainer


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
    return from_words(words, chosen, command_line, TrainConfig, run)


enter = command.door(main)
if __name__ == "__main__":
    enter()
