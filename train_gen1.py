"""Cache -> trained detector, alone or under torchrun; the same command continues a run.

Selection is by mAP on the val split; of the test split only names and hashes are read, to find
them missing in train. The loop is `training.loop.Trainer`, the task `training.detection`.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ActionConfigFile, set_loader

from gen1 import command
from gen1.atomic import make_writable
from gen1.ending import end_workers
from models import build_network, family_of, names, resolve
from models.checkpoint import checkpoint_file, load_checkpoint
from models.detector import DetectorConfig, DetectorNetwork
from models.device import pick_device
from models.start import start_from
from preprocessing.cache import read_manifest
from training.config import TrainConfig, as_of_today
from training.detection import about_data, detection_task
from training.loop import Trainer
from training.ranks import ALONE, Ranks, find_ranks
from training.saving import Interrupted, has_begun, seed_everything

DESCRIPTION = """Train a detector on a cache of event histograms.
Interrupt it as you like: the same command continues.

  train_gen1.py --config configs/gen1_adamw.yaml --cache CACHE --output RUN
        a recipe; options after it change its settings
  train_gen1.py --cache CACHE --output RUN --model.name ems-res10 --help
        the settings below as they are published for that network
  torchrun --nproc-per-node 8 train_gen1.py --config ...
        the same on eight GPUs

Networks: {}."""
#: Settings of a network on which the published values of the others depend.
CHOICES = ("name", "variant", "activation")
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
    started = begin(model, config, ranks) if config.init else {}
    task = detection_task(config, model, manifest, ranks)
    trainer = Trainer(config, model, task, about_data(config, manifest), ranks)
    trainer.begun_from = started
    return trainer


def begin(model: DetectorNetwork, config: TrainConfig, ranks: Ranks) -> dict[str, Any]:
    """Give a run that has not begun the weights of `config.init`; what run.json says of it."""
    assert config.init is not None
    if has_begun(config.output):
        return {}
    path = checkpoint_file(config.init)
    start = start_from(model, load_checkpoint(path), str(path))
    if ranks.is_main:
        print(f"begun from {path}: {start.in_words()}", flush=True)
    return {"init": {"file": str(path), **start._asdict(), "taken": len(start.taken)}}


def run(config: TrainConfig, ranks: Ranks = ALONE) -> Path:
    """Train, or continue, to the end; returns the best checkpoint's path."""
    trainer_of(config, ranks).run()
    return config.output / "best.pt"


def train(config: TrainConfig, ranks: Ranks) -> None:
    """Meet the other processes, train, part from them."""
    try:
        ranks.join(cuda=pick_device(config.device).type == "cuda")
        best = run(config, ranks)
    except Interrupted:  # all ranks agreed on it
        ranks.leave()
        raise
    finally:
        end_workers()
    ranks.leave()
    if ranks.is_main:
        print(f"best: {best}")


# ------------------------------------------------------------------------------ the command line


def chosen(words: Sequence[str]) -> DetectorConfig:
    """The network that files and options name, as published, before all else is read.

    For as many classes as the cache has, if it can be read.
    """
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--config", action="append", default=[])
    peek.add_argument("--cache")
    for name in CHOICES:
        peek.add_argument(f"--model.{name}", dest=name)
    options = vars(peek.parse_known_args(words)[0])
    found, cache = dict[str, Any](GEN1), None
    for path in options.pop("config"):
        # If a file is not there, or no such mapping, the parser says so.
        with suppress(OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
            settings = as_of_today(yaml.safe_load(Path(path).read_bytes()))
            cache, model = settings.get("cache", cache), settings["model"]
            found |= {name: value for name, value in model.items() if name in CHOICES}
    cache = options.pop("cache") or cache
    with suppress(ValueError):  # it will say what is wrong with it when it is opened
        found["num_classes"] = len(read_manifest(cache or "").dataset.classes)
    return resolve(**found | {name: value for name, value in options.items() if value})


def command_line(published: DetectorConfig) -> command.CommandLine:
    """Options of every setting; those of the network begin as published."""
    set_loader("settings", lambda text: as_of_today(yaml.safe_load(text)), (yaml.YAMLError,))
    parser = command.command_line("train_gen1.py", DESCRIPTION.format(", ".join(names())))
    parser.parser_mode = "settings"
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file of these settings")
    parser.add_class_arguments(TrainConfig, skip={"model", "gains"})
    parser.add_class_arguments(type(published), "model", skip={*published.by_name})
    parser.add_class_arguments(family_of(published.name).gains, "gains")
    written = {name for name in vars(published) if name not in published.by_name}
    parser.set_defaults({f"model.{name}": getattr(published, name) for name in written})
    return parser


def config_from(published: DetectorConfig, model: Any, gains: Any, **settings: Any) -> TrainConfig:
    """The settings that a command line has read."""
    by_name = {name: getattr(published, name) for name in published.by_name}
    return TrainConfig(model=replace(model, **by_name), gains=vars(gains), **settings)


def config_of(words: Sequence[str]) -> TrainConfig:
    """The settings that a command line asks for. Raises ValueError for impossible ones."""
    published = chosen(words)
    parser = command_line(published)
    given = vars(parser.instantiate(parser.parse_args(words)))
    given.pop("config", None)
    return config_from(published, **given)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 after an error, 130 when interrupted."""
    ranks = find_ranks()
    words = sys.argv[1:] if argv is None else argv
    try:
        published = chosen(words)
    except ValueError as error:
        return ranks.fail(error)
    return command.run(
        command_line(published),
        lambda **given: train(config_from(published, **given), ranks),
        words,
        interrupted="the same command continues from here" if ranks.is_main else "",
        failed=ranks.fail,
    )


enter = command.door(main)
if __name__ == "__main__":
    enter()
