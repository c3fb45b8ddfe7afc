"""Evaluations, read back from metrics.json: what may be compared, what is one row, its name."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.provenance import (
    config_hash,
    content_hash,
    evaluated_settings,
    flat,
    training_settings,
)
from preprocessing.histogram import KEEPS_ALL

Metrics = dict[str, Any]
NEEDED = {"energy", "protocols", "recordings_crc32", "latency_ms", "trained"}
NEEDED |= {"model", "network", "histogram", "input", "detect"}
#: Settings that the columns of a comparison show anyway: T, D, the model and its activation.
SHOWN = {"network.time_steps", "network.max_spikes", "network.activation", "network.in_channels"}
SHOWN |= {"network.depth", "network.width", "network.wide_p5", "histogram.time_steps"}


def read_metrics(path: str | Path) -> Metrics:
    """metrics.json of an evaluation's directory, or of the `test` directory inside a run.

    Raises ValueError if there is none, or it is not what eval_gen1.py writes.
    """
    path = Path(path)
    for directory in (path, path / "test"):
        if (file := directory / "metrics.json").is_file():
            break
    else:
        raise ValueError(f"{path}: holds no metrics.json, evaluate it with eval_gen1.py first")
    try:
        metrics: Metrics = json.loads(file.read_text())
    except ValueError:
        metrics = {}
    if not isinstance(metrics, dict) or not metrics.keys() >= NEEDED:
        raise ValueError(f"{file}: is not what eval_gen1.py writes, evaluate again")
    return {"config_hash": config_hash(metrics), **metrics}


def refuse_unequal(runs: dict[str, Metrics], protocol: str) -> None:
    """ValueError unless every evaluation scored the same label times of the same recordings."""
    compared = {name: _must_agree(metrics) for name, metrics in runs.items()}
    (first, expected), *others = compared.items()
    for name, found in others:
        for key, value in found.items():
            if value != expected[key]:
                raise ValueError(
                    f"{name}: {key} is {value!r}, that of {first} is {expected[key]!r}: "
                    "only evaluations of the same recordings, thresholds and prices can be compared"
                )
    for name, metrics in runs.items():
        if protocol not in metrics["protocols"]:
            known = ", ".join(metrics["protocols"])
            raise ValueError(
                f"{name}: scored under {known}, not under {protocol}, evaluate it again"
            )


def _must_agree(metrics: Metrics) -> dict[str, Any]:
    """Other bins of the same recordings may be compared; other times to detect at may not."""
    histogram, energy = metrics["histogram"], metrics["energy"]  # older ones lack what they had not
    return {
        **{name: metrics[name] for name in ("split", "recordings_crc32", "detect")},
        "histogram.keep": histogram.get("keep") or KEEPS_ALL,
        "histogram.every_us": histogram.get("every_us", 0),
        "energy.prices": energy.get("prices"),
        "energy.sparse_input": energy.get("sparse_input", False),
    }


@dataclass(frozen=True)
class Row:
    """Evaluations, path -> metrics, that differ in nothing but the seed: one row of a table."""

    runs: dict[str, Metrics]

    @property
    def first(self) -> Metrics:
        return next(iter(self.runs.values()))

    @property
    def path(self) -> str:
        return next(iter(self.runs))

    @property
    def model(self) -> str:
        return f"{self.first['model']} {self.first['network']['activation']}"

    @property
    def steps(self) -> tuple[int, int]:
        """T and D."""
        return self.first["energy"]["time_steps"], self.first["energy"]["max_spikes"]

    @property
    def seeds(self) -> list[Any]:
        return [metrics["trained"].get("seed") for metrics in self.runs.values()]

    @property
    def hashes(self) -> str:
        """Config hashes; two if only some of the runs know how they were trained."""
        return ", ".join(dict.fromkeys(m["config_hash"] for m in self.runs.values()))

    def values(self, figure: Callable[[Metrics], float]) -> np.ndarray:
        """A figure of every run, float64 [n]."""
        return np.array([figure(metrics) for metrics in self.runs.values()], np.float64)


def group_by_seed(runs: dict[str, Metrics]) -> list[Row]:
    """Runs that share model, histograms, input, thresholds and training, as one row each.

    Runs of unknown training join those of known training if there is one kind of it alone. Runs
    of an unknown seed, or two of one seed, stay apart: they differ in something else.
    """
    alike: dict[str, list[str]] = {}
    for name, metrics in runs.items():
        alike.setdefault(content_hash(evaluated_settings(metrics)), []).append(name)
    rows = []
    for names in alike.values():
        for part in _equally_trained({name: runs[name] for name in names}):
            row = Row(part)
            if None in row.seeds or len(set(row.seeds)) < len(row.seeds):
                rows += [Row({name: metrics}) for name, metrics in part.items()]
            else:
                rows.append(row)
    return rows


def _equally_trained(runs: dict[str, Metrics]) -> list[dict[str, Metrics]]:
    kinds: dict[str, dict[str, Metrics]] = {}
    for name, metrics in runs.items():
        settings = training_settings(metrics)
        kinds.setdefault(content_hash(settings) if settings else "", {})[name] = metrics
    return list(kinds.values()) if len(kinds.keys() - {""}) > 1 else [runs]


def varied_settings(rows: list[Row]) -> dict[str, list[str]]:
    """Settings in which rows differ, apart from what SHOWN names -> the value of each row.

    Those of the training count if every row knows them, and all are of events or all of pictures:
    the two have recipes of other settings.
    """
    of_one_kind = len({bool(row.first["histogram"]) for row in rows}) == 1
    settings = [_settings(row.first) for row in rows]
    training = [training_settings(row.first) for row in rows]
    if all(training) and of_one_kind:
        for mine, known in zip(settings, training, strict=True):
            told = (item for item in flat(known or {}) if not item[0].startswith("model."))
            mine |= {f"training.{name}": value for name, value in told}
    names = dict.fromkeys(name for mine in settings for name in mine)
    values = {name: [str(mine.get(name, "-")) for mine in settings] for name in names}
    return {
        name: found
        for name, found in values.items()
        if len(set(found)) > 1 and not _is_told(name, found)
    }


def _is_told(name: str, values: list[str]) -> bool:
    """Does a column, or the model's name, say it anyway?

    The name stands for the layers of EMS-YOLO, and for parts that only some of the models have.
    """
    of_one_kind = ("network.", "training.gains.", "histogram.")
    of_one_family = "-" in values and name.startswith(of_one_kind)
    return name in SHOWN or name.startswith("network.layout.") or of_one_family


def _settings(metrics: Metrics) -> dict[str, Any]:
    keep = metrics["histogram"].get("keep") or KEEPS_ALL
    sections = {name: metrics[name] for name in ("histogram", "network")}
    return {**dict(flat(sections)), "histogram.keep": keep, "input": metrics["input"]}


def names_of(rows: list[Row]) -> list[str]:
    """Model and activation; also T x D, input, other settings or path where that is not enough."""
    varied = varied_settings(rows)
    models = [row.model for row in rows]
    steps = ["{} {}x{}".format(row.model, *row.steps) for row in rows]
    inputs = [
        f"{name} {row.first['input'].partition(',')[0]}"
        for name, row in zip(steps, rows, strict=True)
    ]
    told = []
    for index, name in enumerate(steps):
        telling = _fewest(index, [k for k, other in enumerate(steps) if other == name], varied)
        settings = (f"{what.rpartition('.')[2]} {varied[what][index]}" for what in telling)
        told.append(f"{name} {', '.join(settings)}")
    paths = [f"{row.model} ({row.path})" for row in rows]
    ways = (models, steps, inputs, told, paths)
    return [
        next((names[k] for names in ways if names.count(names[k]) == 1), paths[k])
        for k in range(len(rows))
    ]


def _fewest(index: int, alike: list[int], varied: dict[str, list[str]]) -> tuple[str, ...]:
    """The fewest settings that tell a row from all that are alike; none where none do."""
    telling = [name for name, values in varied.items() if len({values[k] for k in alike}) > 1]
    for size in range(1, len(telling) + 1):
        for names in combinations(telling, size):
            if all(
                any(varied[n][k] != varied[n][index] for n in names) for k in alike if k != index
            ):
                return names
    return ()
