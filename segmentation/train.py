"""`python -m segmentation.train`: a cache and its masks -> a network that names every pixel.

The loop is `training.loop.Trainer`, the task `segmentation.training`; torchrun starts several, and
the same command continues a run.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gen1 import command
from models.detector import DetectorConfig, DetectorNetwork
from segmentation.dataset import folder_of, spec_of_masks
from segmentation.pictures import open_pictures
from segmentation.sources import SourceConfig
from segmentation.training import MaskTrainConfig, about_data, mask_task
from training import options, running
from training.loop import Trainer
from training.ranks import ALONE, Ranks
from training.task import Task

DESCRIPTION = """Train a network that names the class of every pixel, on events or on pictures.
Interrupt it as you like: the same command continues.

  python -m segmentation.train --config configs/segmentation.yaml --cache CACHE --masks RECORDINGS
        --output RUN
        the small network with its mask head; options after it change its settings
  python -m segmentation.train --config configs/segmentation.yaml --model.head fpn ...
        a class per pixel instead of queries: lighter, and faster to train
  python -m segmentation.train --pictures ADEChallengeData2016 --layout ade20k --output RUN
        --model.name spike2former-15m
        pictures instead of events"""
EVENTS = {"name": "spike2former-tiny", "variant": "gen1"}
PICTURES = {"name": "spike2former-tiny", "variant": "coco"}


def task_of(
    config: MaskTrainConfig, model: DetectorNetwork, ranks: Ranks
) -> tuple[Task, dict[str, Any]]:
    """What is learnt of masks, and what a checkpoint says of them."""
    task = mask_task(config, model, ranks)
    return task, about_data(config, task)


def trainer_of(config: MaskTrainConfig, ranks: Ranks = ALONE) -> Trainer:
    """The run that a configuration asks for, at its beginning."""
    return running.trainer_of(config, ranks, task_of)


def run(config: MaskTrainConfig, ranks: Ranks = ALONE) -> Path:
    """Train, or continue, to the end; returns the best checkpoint's path."""
    trainer_of(config, ranks).run()
    return config.output / "best.pt"


def count_classes(masks: str) -> int:
    """Classes of a set's masks, by its masks.yaml."""
    folder = Path(masks)
    return len(spec_of_masks(folder, folder_of(folder, "train")).classes)


def chosen(words: Sequence[str]) -> DetectorConfig:
    """The network that the words name, for as many classes as the masks have."""
    asked = options.said(words, ["pictures", "layout"])
    if not (root := asked["pictures"]):
        return options.chosen(words, EVENTS, "masks", count_classes, "segmentation")
    layout = asked["layout"] or SourceConfig.layout

    def count(_: str) -> int:
        return len(open_pictures(root, layout, "train").spec.classes)

    return options.chosen(words, PICTURES, "pictures", count, "segmentation")


def command_line(published: DetectorConfig) -> command.CommandLine:
    prog = "python -m segmentation.train"
    return options.command_line(prog, DESCRIPTION, MaskTrainConfig, published)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 after an error, 130 when interrupted."""
    words = sys.argv[1:] if argv is None else argv
    return running.from_words(words, chosen, command_line, MaskTrainConfig, run)


enter = command.door(main)
if __name__ == "__main__":
    enter()
