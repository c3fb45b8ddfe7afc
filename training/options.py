"""A run's settings on the command line: those of any data, and a network as it is published."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gen1 import command
from models import family_of, resolve
from models.detector import DetectorConfig, refuse_other_task
from training.config import RunConfig, as_of_today

#: Settings of a network on which the published values of the others depend.
CHOICES = ("name", "variant", "activation")
Config = TypeVar("Config", bound=RunConfig)


def chosen(
    words: Sequence[str],
    published: Mapping[str, Any],
    source: str,
    count_classes: Callable[[str], int],
    task: str = "detection",
) -> DetectorConfig:
    """The network that files and options name, as published, before all else is read.

    published: what is chosen if they say nothing. source: the setting that says where the data are,
    of which count_classes tells how many classes they have, or raises ValueError. A network of
    another task raises it, too.
    """
    options = command.peek(words, [f"model.{name}" for name in CHOICES])
    found = dict(published)
    for settings in files(options["config"]):
        if isinstance(model := settings.get("model"), dict):
            found |= {name: value for name, value in model.items() if name in CHOICES}
    with suppress(ValueError):  # it will say what is wrong with it when it is opened
        found["num_classes"] = count_classes(said(words, [source])[source] or "")
    given = {name: options[f"model.{name}"] for name in CHOICES}
    config = resolve(**found | {name: value for name, value in given.items() if value})
    refuse_other_task(config, task, f"model {config.name}")
    return config


def files(paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The settings in files; of one that is not there, or none, the parser says so later."""
    for path in paths:
        with suppress(OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
            settings = as_of_today(yaml.safe_load(Path(path).read_bytes()))
            if isinstance(settings, dict):
                yield settings


def said(words: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """What files and options say of some settings, before all else is read; None if nothing."""
    options, found = command.peek(words, names), dict.fromkeys(names)
    for settings in files(options["config"]):
        found |= {name: str(settings[name]) for name in names if settings.get(name) is not None}
    return found | {name: options[name] for name in names if options[name]}


def command_line(
    prog: str, description: str, settings: type[RunConfig], published: DetectorConfig
) -> command.CommandLine:
    """Options of every setting; those of the network begin as published."""

    def load(text: str) -> Any:
        return as_of_today(yaml.safe_load(text))

    parser = command.run_line(prog, description, load, (yaml.YAMLError,))
    parser.add_class_arguments(settings, skip={"model", "gains"})
    parser.add_class_arguments(type(published), "model", skip={*published.by_name})
    parser.add_class_arguments(family_of(published.name).gains, "gains")
    written = {name for name in vars(published) if name not in published.by_name}
    parser.set_defaults({f"model.{name}": getattr(published, name) for name in written})
    return parser


def config_from(
    settings: type[Config], published: DetectorConfig, model: Any, gains: Any, **given: Any
) -> Config:
    """The settings that a command line has read."""
    by_name = {name: getattr(published, name) for name in published.by_name}
    return settings(model=replace(model, **by_name), gains=vars(gains), **given)
