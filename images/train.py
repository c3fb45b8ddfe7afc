"""`python -m images.train`: COCO-format pictures -> a trained detector, alone or under torchrun.

The loop is `training.loop.Trainer`, the task `images.training`; the same command continues a run.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gen1 import command
from images.training import ImageTrainConfig, about_data, image_task
from models.detector import DetectorConfig, DetectorNetwork
from training import options, running
from training.loop import Trainer
from training.ranks import ALONE, Ranks
from training.task import Task

DESCRIPTION = """Train a detector on pictures with labels in COCO's format.
Interrupt it as you like: the same command continues.

  python -m images.train --config configs/coco_authors.yaml --images train2017 --annotations T.json
        --val-images val2017 --val-annotations V.json --output RUN
        the authors' recipe; options after it change its settings
  python -m images.train --model.name spikeyolo-p --side 320 ...
        a small network on your own pictures"""
COCO = {"name": "spikeyolo-s", "variant": "coco"}


def task_of(
    config: ImageTrainConfig, model: DetectorNetwork, ranks: Ranks
) -> tuple[Task, dict[str, Any]]:
    """What is learnt of pictures, and what a checkpoint says of them."""
    task = image_task(config, model, ranks)
    return task, about_data(config, categories_of(str(config.annotations)))


def trainer_of(config: ImageTrainConfig, ranks: Ranks = ALONE) -> Trainer:
    """The run that a configuration asks for, at its beginning."""
    return running.trainer_of(config, ranks, task_of)


def run(config: ImageTrainConfig, ranks: Ranks = ALONE) -> Path:
    """Train, or continue, to the end; returns the best checkpoint's path."""
    trainer_of(config, ranks).run()
    return config.output / "best.pt"


def categories_of(annotations: str) -> list[str]:
    """Names of a json's categories by their numbers; ValueError where it cannot be read."""
    try:
        content = json.loads(Path(annotations).read_bytes())["categories"]
        return [str(c["name"]) for c in sorted(content, key=lambda category: category["id"])]
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{annotations}: cannot be understood ({error})") from None


def chosen(words: Sequence[str]) -> DetectorConfig:
    """The network that the words name, for as many classes as the annotations have."""

    def count_classes(annotations: str) -> int:
        return len(categories_of(annotations))

    return options.chosen(words, COCO, "annotations", count_classes)


def command_line(published: DetectorConfig) -> command.CommandLine:
    return options.command_line("python -m images.train", DESCRIPTION, ImageTrainConfig, published)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 after an error, 130 when interrupted."""
    words = sys.argv[1:] if argv is None else argv
    return running.from_words(words, chosen, command_line, ImageTrainConfig, run)


enter = command.door(main)
if __name__ == "__main__":
    enter()
