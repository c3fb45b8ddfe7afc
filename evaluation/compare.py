"""Several evaluations side by side: tables and one picture."""

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox, BboxBase

from evaluation.provenance import thresholds
from evaluation.rows import (
    Metrics,
    Row,
    group_by_seed,
    names_of,
    read_metrics,
    refuse_unequal,
    varied_settings,
)
from gen1.atomic import atomic_write, make_writable
from gen1.protocol import PROTOCOLS

#: Protocols of boxes in recordings, of boxes in pictures, of masks: what an absent class counts.
ABSENT = ("present", "all")
KNOWN = (*PROTOCOLS, "coco", *ABSENT)
#: What the first two figures of a protocol are.
BOXES, PIXELS = ("mAP@50:95", "mAP@50"), ("mIoU", "pixel accuracy")
COLUMNS = (
    "GMAC", "GAC", "firing", "mJ", "ANN / this", "mJ with memory", "ms", "config",
)  # fmt: skip


def figures_of(protocol: str) -> tuple[str, str]:
    """Names of the first two figures of a protocol."""
    return PIXELS if protocol in ABSENT else BOXES


def stat(protocol: str, column: int) -> Callable[[Metrics], float]:
    """One of the 12 COCO figures of an evaluation."""
    return lambda metrics: metrics["protocols"][protocol]["stats"][column]


def spread(values: np.ndarray, decimals: int, missing_below: float = -np.inf) -> str:
    """ "mean ± sample standard deviation" of float64 [n]; no spread for one, "-" if undefined."""
    mean = values.mean()
    if np.isnan(mean) or mean < missing_below:
        return "-"
    text = f"{mean:.{decimals}f}"
    return text if len(values) == 1 else f"{text} ± {values.std(ddof=1):.{decimals}f}"


def cells(row: Row, name: str, varied: list[str], protocol: str) -> tuple[str, ...]:
    def energy(key: str) -> np.ndarray:
        return row.values(lambda metrics: metrics["energy"][key])

    return (
        name,
        *map(str, row.steps),
        *varied,
        ", ".join("-" if seed is None else str(seed) for seed in row.seeds),
        f"{row.first['parameters'] / 1e6:.2f} M",
        spread(row.values(stat(protocol, 0)), 3, missing_below=0),
        spread(row.values(stat(protocol, 1)), 3, missing_below=0),
        f"{row.first['energy']['mac'] / 1e9:.3f}",
        spread(energy("ac") / 1e9, 3),
        spread(energy("firing_rate"), 3),
        spread(energy("snn_mj"), 3),
        spread(energy("ratio"), 2),
        spread(energy("snn_mj_with_memory"), 2),
        f"{row.values(lambda metrics: metrics['latency_ms']).mean():.1f}",
        row.hashes,
    )


def comparison_table(rows: list[Row], protocol: str) -> str:
    """Markdown: its rule in two lines, then a row per configuration, mAP under `protocol`.

    Histogram, network and training settings that are not the same everywhere get a column.
    """
    varied = varied_settings(rows)
    head = ("model", "T", "D", *varied, "seeds", "parameters", *figures_of(protocol), *COLUMNS)
    details = [[values[index] for values in varied.values()] for index in range(len(rows))]
    told = [(row.model, row.steps, detail) for row, detail in zip(rows, details, strict=True)]
    body = []
    for row, detail, mine in zip(rows, details, told, strict=True):
        name = row.model if told.count(mine) == 1 else f"{row.model} ({row.path})"
        body.append(cells(row, name, detail, protocol))
    lines = ["| " + " | ".join(line) + " |" for line in (head, ("---",) * len(head), *body)]
    return "\n".join([rule_in_words(rows, protocol), "", *lines])


def stationary_table(rows: list[Row], protocol: str) -> str:
    """Markdown: mAP@50:95 of what moves and of what stands still; "" if not all labels say it.

    Beside it the energy of a second of recording, where windows follow each other.
    """
    if not all(metrics.get("stationary") for row in rows for metrics in row.runs.values()):
        return ""
    every_us = rows[0].first["histogram"].get("every_us")
    head = ["mAP@50:95 of labels", *rows[0].first["stationary"], *(["mJ / s"] if every_us else [])]
    lines = [head, ["---"] * len(head)]
    for row, name in zip(rows, names_of(rows), strict=True):
        line = [name]
        for subset in rows[0].first["stationary"]:
            found = row.values(lambda m, of=subset: m["stationary"][of][protocol]["map_50_95"])  # type: ignore[misc]
            line.append(spread(found, 3, missing_below=0))
        if every_us:
            line.append(spread(row.values(lambda m: m["energy"]["snn_mj"]) * 1e6 / every_us, 3))
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rule_in_words(rows: list[Row], protocol: str) -> str:
    """What all figures of a comparison rest on: one line for mAP, one for the rest."""
    runs = [metrics for row in rows for metrics in row.runs.values()]
    samples = _distinct(metrics["energy"]["samples"] for metrics in runs)
    skipped = ", zeros of the input skipped" if runs[0]["energy"].get("sparse_input") else ""
    averaged = "mean ± sample standard deviation over seeds; " if len(runs) > len(rows) else ""
    return (
        f"split {runs[0]['split']}, protocol {protocol}, {thresholds(runs[0]['detect'])}, "
        f"evaluated at commit {_distinct(metrics['commit'] for metrics in runs)}, "
        f"trained at commit {_distinct(metrics['trained'].get('commit') for metrics in runs)}\n"
        f"{averaged}energy per inference over {samples} samples{skipped}, "
        f"ms on {_distinct(metrics['device'] for metrics in runs)}"
    )


def _distinct(values: Any) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def runs_in_words(rows: list[Row]) -> str:
    """Markdown: which evaluations every row is made of."""
    lines = []
    for row in rows:
        runs = (f"{name} (seed {seed})" for name, seed in zip(row.runs, row.seeds, strict=True))
        lines.append(f"- {row.model}, config {row.hashes}: {', '.join(runs)}")
    return "\n".join(lines)


def accuracy_over_energy(rows: list[Row], protocol: str) -> Figure:
    """mAP@50:95, or mIoU, against energy per inference.

    A point per row, with the standard deviation over its seeds both ways; the runs it is made of
    lie faintly behind.
    """
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.subplots()
    labels = []
    for index, (row, name) in enumerate(zip(rows, names_of(rows), strict=True)):
        colour = f"C{index % 10}"
        x = row.values(lambda metrics: metrics["energy"]["snn_mj"])
        y = row.values(stat(protocol, 0))
        point = x.mean(), y.mean()
        several = len(row.runs) > 1
        if several:
            axes.scatter(x, y, s=16, color=colour, alpha=0.3, linewidths=0)
        errors = {"xerr": x.std(ddof=1), "yerr": y.std(ddof=1)} if several else {}
        axes.errorbar(*point, fmt="o", color=colour, capsize=3, **errors)
        label = axes.annotate(name, point, (0, 0), textcoords="offset points", color=colour, size=9)
        labels.append(label)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="energy per inference (mJ)", ylabel=figures_of(protocol)[0])
    mapped, _, rest = rule_in_words(rows, protocol).partition(", evaluated")
    lines = [part for line in f"{mapped},\nevaluated{rest}".split("\n") for part in wrap(line, 120)]
    axes.set_title("\n".join(lines), fontsize=7)
    axes.grid(alpha=0.3)
    axes.margins(0.2)
    keep_apart(figure, labels)
    return figure


def keep_apart(figure: Figure, labels: list[Annotation]) -> None:
    """Move every label to the first place near its point where it covers nothing, if any."""
    for label in labels:
        label.set_in_layout(False)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    frame = axes.bbox
    bars = [bar.get_segments()[0] for point in axes.containers for bar in point[2]]
    taken: list[BboxBase] = [Bbox(axes.transData.transform(bar)) for bar in bars]
    places = [
        (dx, dy, side)
        for distance in range(4, 65, 10)
        for dx, side in ((7, "left"), (-7, "right"))
        for dy in (distance, -distance - 9)
    ]
    for label in labels:
        for dx, dy, side in places:
            label.set(position=(dx, dy), horizontalalignment=side)
            box = label.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            if inside and box.count_overlaps(taken) == 0:
                break
        taken.append(label.get_window_extent())


def compare(
    paths: Sequence[str | Path], protocol: str = "", output: str | Path | None = None
) -> str:
    """Markdown of evaluated runs, `protocol` first; also compare.md and .png in `output`, if given.

    "": the first protocol that scored them all. Pictures may be compared with the recordings that
    they were taken beside.
    Raises ValueError for runs that were scored or priced on other terms.
    """
    if protocol and protocol not in KNOWN:
        raise ValueError(f"protocol is {protocol!r}, expected one of {', '.join(KNOWN)}")
    output = Path(output) if output else None
    if output:
        make_writable(output)
    runs = {str(path): read_metrics(path) for path in paths}
    common = [p for p in KNOWN if all(p in metrics["protocols"] for metrics in runs.values())]
    protocol = protocol or (common or [*KNOWN])[0]
    refuse_unequal(runs, protocol)
    rows = group_by_seed(runs)
    tables = [comparison_table(rows, p) for p in sorted(common, key=lambda p: p != protocol)]
    still = stationary_table(rows, protocol)
    text = "\n\n".join([*tables, *([still] if still else []), runs_in_words(rows)])
    if output:
        with atomic_write(output / "compare.md") as file:
            file.write(text.encode() + b"\n")
        accuracy_over_energy(rows, protocol).savefig(output / "compare.png", dpi=120)
    return text
