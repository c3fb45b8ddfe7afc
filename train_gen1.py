"""Cache -> trained detector, alone or under torchrun; the same command continues a run.

Selection is by mAP on the val split; of the test split only names and hashes are read, to find
them missing in train. The loop is `training.loop.Trainer`, the task `training.detection`.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, set_loader

from gen1.atomic import make_writable
from models import build_network, family_of, names, resolve
from models.checkpoint import checkpoint_file, load_checkpoint
from models.detector import DetectorNetwork
from models.device import pick_device
from models.start import start_from
from preprocessing.cache import read_manifest
from preprocessing.ending import end_workers, leave
from training.config import TrainConfig, as_of_today
from training.detection import about_data, detection_task
from training.loop import Trainer
from training.ranks import ALONE, Ranks, find_ranks
from training.saving import Interrupted, has_begun, seed_everything

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
    model = build_network(config.model)
    started = begin(model, config, ranks) if config.init else {}
    task = detection_task(config, model, manifest, ranks)
    trainer = Trainer(config, model, task, about_data(config, manifest), ranks)
    trainer.origin = started
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


def chosen(argv: Sequence[str]) -> dict[str, Any]:
    """The network that files and options name, before all else is read."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--config", action="append", default=[])
    for name in CHOICES:
        peek.add_argument(f"--model.{name}", dest=name)
    options = vars(peek.parse_known_args(argv)[0])
    found = dict(GEN1)
    for path in options.pop("config"):
        if Path(path).is_file():  # if not, the parser says so
            settings = as_of_today(yaml.safe_load(Path(path).read_bytes())) or {}
            found |= {k: v for k, v in settings.get("model", {}).items() if k in CHOICES}
    return found | {name: value for name, value in options.items() if value}


def command_line(published: Any) -> ArgumentParser:
    """Options of every setting; those of the network begin as published."""
    set_loader("settings", lambda text: as_of_today(yaml.safe_load(text)), (yaml.YAMLError,))
    parser = ArgumentParser(
        prog="train_gen1.py",
        parser_mode="settings",
        description="Train a detector on a cache of event histograms. "
        "Interrupt it as you like: the same command continues. "
        "Settings of the network begin as published for its --model.name, one of "
        f"{', '.join(names())}; give it beside --help to see them.",
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with these settings")
    parser.add_class_arguments(TrainConfig, skip={"model", "gains"})
    parser.add_class_arguments(type(published), "model", skip={*published.by_name})
    parser.add_class_arguments(family_of(published.name).gains, "gains")
    written = {name for name in vars(published) if name not in published.by_name}
    parser.set_defaults({f"model.{name}": getattr(published, name) for name in written})
    return parser


def config_of(argv: Sequence[str]) -> TrainConfig:
    """The settings that a command line asks for. Raises ValueError for impossible ones."""
    published = resolve(**chosen(argv))
    parser = command_line(published)
    given = parser.instantiate(parser.parse_args(argv))
    by_name = {name: getattr(published, name) for name in published.by_name}
    given.model, given.gains = replace(given.model, **by_name), vars(given.gains)
    given.pop("config", None)
    return TrainConfig(**vars(given))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 after an error, 130 when interrupted."""
    ranks = find_ranks()
    try:
        config = config_of(sys.argv[1:] if argv is None else argv)
        ranks.join(cuda=pick_device(config.device).type == "cuda")
        best = run(config, ranks)
    except (Interrupted, KeyboardInterrupt) as left:
        if ranks.is_main:
            print("interrupted: the same command continues from here", file=sys.stderr)
        if isinstance(left, Interrupted):  # all ranks agreed on it
            ranks.leave()
        return 130
    except Exception as error:
        return ranks.fail(error)
    finally:
        end_workers()
    ranks.leave()
    if ranks.is_main:
        print(f"best: {best}")
    return 0


if __name__ == "__main__":
    leave(main())
