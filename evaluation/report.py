"""The report of one evaluation: text for the terminal, pictures, and one HTML page of it all."""

import base64
import io
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from matplotlib.figure import Figure
from pycocotools import mask

from evaluation.detect import Detections, spread_out
from evaluation.pictures import draw_detections, energy_per_layer, firing_rates, precision_recall
from evaluation.provenance import flat, rule_of, thresholds
from evaluation.stationary import stationary_rows
from gen1.atomic import atomic_write
from gen1.coco import DetectionMetrics
from gen1.protocol import EvalProtocol
from models.energy import EnergyReport
from preprocessing.dataset import HistogramDataset

#: Pictures beside each other; the least score of a box in them; IoU at which it counts as found.
COLUMNS, SHOWN_SCORE, MATCHING_IOU = 3, 0.3, 0.5
#: Firing rates below and above which a layer is warned of.
SILENT, SATURATED = 0.001, 0.9


def write_report(
    directory: Path,
    metrics: dict[str, Any],
    score: DetectionMetrics,
    energy: EnergyReport,
    dataset: HistogramDataset,
    detections: Detections,
    pictures: int,
) -> None:
    """Write report.html, self-contained, and its pictures as PNG into `directory`."""
    examples = pick_examples(dataset, detections, score.protocol, pictures)
    figures = {
        **{title: detections_figure(dataset, detections, c) for title, c in examples.items()},
        "Precision and recall": precision_recall(
            score.precision, score.per_class, f"IoU 0.5, protocol {score.protocol.name}"
        ),
        "Firing rate per layer": firing_rates(energy),
        "Energy per layer": energy_per_layer(energy),
    }
    write_page(directory, metrics, figures, page_of(metrics, sources(metrics)))


class Page(NamedTuple):
    """The words of a report: `table` as in the terminal, `classes` with a head as first row.

    rule: that of the figures, in a line. sources: where every number comes from.
    """

    table: str
    title: str
    classes: list[list[str]]
    rule: str
    sources: dict[str, str]


def page_of(metrics: dict[str, Any], sources: dict[str, str]) -> Page:
    """The words of an evaluation of boxes."""
    protocols = metrics["protocols"]
    head = [f"{name}, {figure}" for name in protocols for figure in ("AP@50:95", "AP@50")]
    classes = [["class", *head]]
    for name in metrics["per_class"]:
        figures = (ap for scores in protocols.values() for ap in scores["per_class"][name])
        classes.append([name, *map(ap_text, figures)])
    title = "Average precision per class"
    return Page(results_table(metrics), title, classes, rule_of(metrics), sources)


def write_page(
    directory: Path, metrics: dict[str, Any], figures: dict[str, Figure], page: Page
) -> None:
    """Write report.html, self-contained, and the figures as PNG into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    encoded = {}
    for title, figure in figures.items():
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110)
        with atomic_write(directory / f"{title.lower().replace(' ', '_')}.png") as file:
            file.write(png.getvalue())
        encoded[title] = base64.b64encode(png.getvalue()).decode()
    with atomic_write(directory / "report.html") as file:
        file.write(html_page(metrics, encoded, page).encode())


def html_page(metrics: dict[str, Any], pictures: dict[str, str], page: Page) -> str:
    """The page for metrics.json and pictures (title -> PNG in base64); its text is escaped."""
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=folder, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html").render(
        title=f"{metrics['model']} on {metrics['split']}",
        page=page,
        assumptions=metrics["energy"]["assumptions"],
        pictures=pictures,
    )


def sources(metrics: dict[str, Any]) -> dict[str, str]:
    """The rule behind every number of the page."""
    energy, headline = metrics["energy"], metrics["protocols"][metrics["protocol"]]
    recordings = f"{headline['recordings']} recordings of {metrics['cache']}"
    counted = f"{energy['samples']} samples of the split, prices {energy['prices']['name']}"
    return {
        **{
            f"protocol {name}": EvalProtocol(**p["rule"]).in_words()
            for name, p in metrics["protocols"].items()
        },
        **{f"without {name}": why for name, why in metrics["left_out"].items()},
        "split": f"{metrics['split']}: {recordings}",
        "labels, CRC-32": f"{metrics['recordings_crc32']:08x}",
        "detections": thresholds(metrics["detect"]),
        "evaluated": f"commit {metrics['commit']}, config {metrics['config_hash']}",
        "energy": f"{counted}, deployed network",
        "latency": f"{metrics['latency_ms']:.1f} ms a sample on {metrics['device']}",
        "machine": settings_in_words(metrics["environment"]),
        "checkpoint": f"{metrics['checkpoint']}, {metrics['parameters']:,} parameters",
        "network": settings_in_words(metrics["network"]),
        "histograms": f"{settings_in_words(metrics['histogram'])}, as {metrics['input']}",
        "trained": settings_in_words(metrics["trained"]),
    }


def settings_in_words(settings: dict[str, Any]) -> str:
    known = ((name, value) for name, value in flat(settings) if value not in (None, ""))
    return ", ".join(f"{name} {value}" for name, value in known)


def detections_figure(
    dataset: HistogramDataset, detections: Detections, chosen: list[int]
) -> Figure:
    """Chosen samples: labels dashed, detections of score >= 0.3 with class and score."""
    rows = max(-(-len(chosen) // COLUMNS), 1)
    figure = Figure(figsize=(11, 3.1 * rows), layout="constrained")
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for index, axis in zip(chosen, axes, strict=False):
        name, t_us = dataset.label_times[index]
        draw_detections(
            axis,
            dataset.histogram(index),
            dataset.settings.downsample,
            at(dataset.labels(name), dataset.label_us(index)),
            confident(detections[name], t_us),
            f"{name}, {t_us / 1e6:.2f} s",
            dataset.spec.classes,
        )
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    return figure


def pick_examples(
    dataset: HistogramDataset, detections: Detections, protocol: EvalProtocol, count: int
) -> dict[str, list[int]]:
    """Title -> indices of `count` samples: spread evenly, highest F1, lowest F1.

    Only boxes that count under the protocol enter F1; of equals, those with more labels show.
    """
    ranked = []
    for index, (name, t_us) in enumerate(dataset.label_times):
        labels = at(protocol.scored_labels(dataset.labels(name)), dataset.label_us(index))
        found = protocol.scored_detections(confident(detections[name], t_us))
        f1 = f1_score(labels, found)
        if not isnan(f1):
            ranked.append((f1, len(labels), index))
    ranked.sort(key=lambda r: (-r[0], -r[1], r[2]))
    best, worst = ranked[:count], sorted(ranked, key=lambda r: r[0])[:count]
    return {
        "Detections": spread_out(len(dataset), count),
        "Best detections": [index for *_, index in best],
        "Worst detections": [index for *_, index in worst],
    }


def at(boxes: np.ndarray, t_us: int) -> np.ndarray:
    return boxes[boxes["t"] == t_us]


def confident(detections: np.ndarray, t_us: int) -> np.ndarray:
    """The detections at a time that are confident enough to draw, best first."""
    found = at(detections, t_us)
    found = found[found["class_confidence"] >= SHOWN_SCORE]
    return found[np.argsort(-found["class_confidence"], kind="stable")]


def f1_score(labels: np.ndarray, found: np.ndarray) -> float:
    """F1 of BOX [n] against BOX [m] at IoU 0.5, greedy, best first; nan if both are empty."""
    if not len(labels) and not len(found):
        return float("nan")
    sides = [np.stack([b[name] for name in "xywh"], 1).astype(float) for b in (found, labels)]
    overlap = np.zeros((len(found), len(labels)))
    if overlap.size:
        overlap = mask.iou(*sides, np.zeros(len(labels), bool))
    overlap[found["class_id"][:, None] != labels["class_id"]] = 0
    hits = 0
    for row in overlap:
        if row.size and row.max() >= MATCHING_IOU:
            overlap[:, row.argmax()] = 0
            hits += 1
    return 2 * hits / (len(labels) + len(found))


def results_table(metrics: dict[str, Any]) -> str:
    """Lines of mAP beside energy; `metrics` is what eval_gen1.py writes to metrics.json."""
    energy, network = metrics["energy"], metrics["network"]
    protocols = metrics["protocols"]
    title = (
        f"{metrics['model']}, T={energy['time_steps']}, D={energy['max_spikes']}, "
        f"{network['activation']}, split {metrics['split']}, commit {metrics['commit']}, "
        f"config {metrics['config_hash']}\ndetections: {thresholds(metrics['detect'])}"
    )
    if metrics.get("carry_state"):
        title += "\nwhole recordings, the state carried from window to window"
    rows = [("protocol", *protocols)]
    for label, column in (("mAP@50:95", 0), ("mAP@50", 1)):
        rows.append((label, *(ap_text(p["stats"][column]) for p in protocols.values())))
    for name in metrics["per_class"]:
        values = (ap_text(p["per_class"][name][1]) for p in protocols.values())
        rows.append((f"AP@50 {name}", *values))
    counts = (f"{p['labels']} / {p['images']}" for p in protocols.values())
    rows.append(("labels / frames", *counts))
    rows += stationary_rows(metrics.get("stationary", {}))
    detection = "\n".join(f"  {row[0]:<18}" + "".join(f"{v:>14}" for v in row[1:]) for row in rows)
    detection += "".join(f"\n  without {p}: {why}" for p, why in metrics["left_out"].items())

    priced = "\n".join(f"  {name:<18}{value:>14}" for name, value in energy_rows(energy))
    health = "".join(f"\n\nwarning: {sentence}" for sentence in firing_health(energy))
    skipped = ", zeros of the input skipped" if energy["sparse_input"] else ""
    return f"{title}\n\n{detection}\n\nper inference{skipped}\n{priced}{health}"


def energy_rows(energy: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, figure with unit) of one inference."""
    rate = energy["firing_rate"]
    return [
        ("MAC", f"{energy['mac'] / 1e9:.4f} G"),
        ("AC", f"{energy['ac'] / 1e9:.4f} G"),
        ("firing rate", "-" if rate is None else f"{rate:.3f}"),
        ("energy", f"{energy['snn_mj']:.4f} mJ"),
        ("ANN-equivalent", f"{energy['ann_mj']:.4f} mJ"),
        ("ANN / this", f"{energy['ratio']:.2f}"),
        ("with memory", f"{energy['snn_mj_with_memory']:.3f} mJ"),
        ("ANN with memory", f"{energy['ann_mj_with_memory']:.3f} mJ"),
    ]


def firing_health(energy: dict[str, Any], shown: int | None = None) -> list[str]:
    """Sentences naming layers whose input hardly ever fires, or fires nearly all it can.

    `shown`: so many names at most, then a count of the rest.
    """
    layers = {layer["name"]: layer["firing_rate"] for layer in energy["layers"]}
    rates = {name: rate for name, rate in layers.items() if rate is not None}
    found = {
        f"below {SILENT:.1%}": [name for name, rate in rates.items() if rate < SILENT],
        f"above {SATURATED:.0%}": [name for name, rate in rates.items() if rate > SATURATED],
    }
    return [
        f"{len(names)} of {len(rates)} layers read spikes at a rate {rule}: {_listed(names, shown)}"
        for rule, names in found.items()
        if names
    ]


def _listed(names: list[str], shown: int | None) -> str:
    rest = len(names[shown:]) if shown else 0
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest else "")


def ap_text(value: float) -> str:
    """An average precision; "-" where no label defines it."""
    return "-" if value < 0 else f"{value:.3f}"
