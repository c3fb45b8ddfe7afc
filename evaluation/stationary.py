"""The mAP of what moves, and of what has stood still for some time, where labels say it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gen1.coco import DetectionMetrics, NothingToScore
from preprocessing.dataset import HistogramDataset

#: Protocol, recording -> which of its labels, bool [n] -> their figures.
Score = Callable[[str, Mapping[str, np.ndarray]], DetectionMetrics]

#: Name -> more than so many us, and at most so many, without moving.
SUBSETS: dict[str, tuple[int, int]] = {
    "moving": (-1, 500_000),
    "still > 0.5 s": (500_000, 1 << 62),
    "still > 2 s": (2_000_000, 1 << 62),
}


def stationary_scores(
    dataset: HistogramDataset, score: Score, protocols: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """Subset -> protocol -> {labels, map_50_95, map_50, per_class}; {} if labels do not say it.

    The labels of the other subsets are regions in which nothing is counted. A subset without a
    label that counts has 0 labels, and -1 for its figures.
    """
    still_us = {}
    for name in dataset.recordings:
        if (times_us := dataset.still_us(name)) is None:
            return {}
        still_us[name] = times_us
    found: dict[str, dict[str, Any]] = {}
    for subset, (more_us, most_us) in SUBSETS.items():
        counts = {name: (us > more_us) & (us <= most_us) for name, us in still_us.items()}
        found[subset] = {protocol: _figures(score, protocol, counts) for protocol in protocols}
    return found


def _figures(score: Score, protocol: str, counts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    try:
        metrics = score(protocol, counts)
    except NothingToScore:
        return {"labels": 0, "map_50_95": -1.0, "map_50": -1.0, "per_class": {}}
    return {
        "labels": metrics.n_labels,
        "map_50_95": metrics.map_50_95,
        "map_50": metrics.map_50,
        "per_class": metrics.per_class,
    }


def stationary_rows(stationary: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of the table of results: subset, then its mAP@50:95 by every protocol, and labels."""
    rows = []
    for subset, by_protocol in stationary.items():
        figures = by_protocol.values()
        shown = ("-" if f["map_50_95"] < 0 else f"{f['map_50_95']:.3f}" for f in figures)
        rows.append((subset, *shown))
        rows.append(("  labels", *(f"{f['labels']}" for f in figures)))
    return rows
