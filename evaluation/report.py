"""The report of one evaluation: pictures, and one HTML page that holds them all."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from evaluation.examples import at, pick_examples, shown
from evaluation.pictures import draw_detections, energy_per_layer, firing_rates, precision_recall
from evaluation.provenance import flat, rule_of, thresholds
from evaluation.table import ap_text, results_table
from gen1.atomic import atomic_write
from gen1.coco import DetectionMetrics
from models.energy import EnergyReport
from preprocessing.dataset import HistogramDataset

COLUMNS = 3

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em }}
pre {{ background: #f5f5f5; padding: 1em; white-space: pre-wrap; overflow-wrap: anywhere }}
img {{ max-width: 100% }}
section {{ margin-top: 1.6em }} figure {{ margin: 0 }}
figcaption {{ color: #555; font-size: 80% }}
table {{ border-collapse: collapse; font-size: 90% }}
th, td {{ border-top: 1px solid #ddd; padding: .2em .8em; text-align: left; vertical-align: top }}
td {{ overflow-wrap: anywhere }}
@page {{ margin: 15mm }}
@media print {{
  body {{ max-width: none; margin: 0; padding: 0; font-size: 10pt }}
  pre, img {{ print-color-adjust: exact; -webkit-print-color-adjust: exact }}
  pre {{ font-size: 8pt }}
  h1, h2 {{ break-after: avoid }}
  section, pre, figure, tr, li {{ break-inside: avoid }}
  section.long {{ break-inside: auto }}
  img {{ max-height: 220mm }}
}}
</style></head><body>
<h1>{title}</h1>
<pre>{table}</pre>
{sections}
</body></html>
"""


def write_report(
    directory: Path,
    metrics: dict[str, Any],
    scores: dict[str, DetectionMetrics],
    energy: EnergyReport,
    dataset: HistogramDataset,
    detections: dict[str, np.ndarray],
    pictures: int,
) -> None:
    """Write report.html, self-contained, and its pictures as PNG into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    score = scores[metrics["protocol"]]
    examples = pick_examples(dataset, detections, score.protocol, pictures)
    figures = {
        **{title: detections_figure(dataset, detections, c) for title, c in examples.items()},
        "Precision and recall": precision_recall(score),
        "Firing rate per layer": firing_rates(energy),
        "Energy per layer": energy_per_layer(energy),
    }
    sections = [section("Average precision per class", per_class_table(metrics))]
    for title, figure in figures.items():
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110)
        with atomic_write(directory / f"{title.lower().replace(' ', '_')}.png") as file:
            file.write(png.getvalue())
        encoded = base64.b64encode(png.getvalue()).decode()
        image = f'<img alt="{title}" src="data:image/png;base64,{encoded}">'
        caption = f"<figcaption>{html.escape(rule_of(metrics))}</figcaption>"
        sections.append(section(title, f"<figure>{image}{caption}</figure>"))
    assumed = "".join(f"<li>{html.escape(text)}</li>" for text in energy.assumptions)
    sections += [
        section("Assumptions behind the energy", f"<ul>{assumed}</ul>"),
        section("Where the numbers come from", provenance_table(metrics, scores), "long"),
    ]
    page = PAGE.format(
        title=f"{html.escape(metrics['model'])} on {html.escape(metrics['split'])}",
        table=html.escape(results_table(metrics)),
        sections="\n".join(sections),
    )
    with atomic_write(directory / "report.html") as file:
        file.write(page.encode())


def section(title: str, body: str, style: str = "") -> str:
    """A part of the page that stays together on paper, unless its style is "long"."""
    opened = f'<section class="{style}">' if style else "<section>"
    return f"{opened}<h2>{html.escape(title)}</h2>{body}</section>"


def html_table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """Rows of plain text; the first cell of each is its name."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    lines = [f"<tr>{head}</tr>"] if header else []
    for name, *cells in rows:
        values = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        lines.append(f"<tr><th>{html.escape(name)}</th>{values}</tr>")
    return f"<table>{''.join(lines)}</table>"


def per_class_table(metrics: dict[str, Any]) -> str:
    """AP@50:95 and AP@50 of every class under every protocol."""
    protocols = metrics["protocols"]
    header = ["class", *(f"{name}, {f}" for name in protocols for f in ("AP@50:95", "AP@50"))]
    rows = [
        [name, *(ap_text(ap) for p in protocols.values() for ap in p["per_class"][name])]
        for name in metrics["per_class"]
    ]
    return html_table(rows, header)


def provenance_table(metrics: dict[str, Any], scores: dict[str, DetectionMetrics]) -> str:
    """The rule behind every number of the page."""
    energy, trained = metrics["energy"], metrics["trained"]
    recordings = scores[metrics["protocol"]].n_recordings
    counted = f"{energy['samples']} samples of the split, prices {energy['prices']['name']}"
    machine = settings_in_words(metrics["environment"])
    return html_table(
        [
            *((f"protocol {name}", score.protocol.in_words()) for name, score in scores.items()),
            *((f"without {name}", why) for name, why in metrics["left_out"].items()),
            ("split", f"{metrics['split']}: {recordings} recordings of {metrics['cache']}"),
            ("labels, CRC-32", f"{metrics['recordings_crc32']:08x}"),
            ("detections", thresholds(metrics["detect"])),
            ("evaluated", f"commit {metrics['commit']}, config {metrics['config_hash']}"),
            ("energy", f"{counted}, deployed network"),
            ("latency", f"{metrics['latency_ms']:.1f} ms a sample on {metrics['device']}"),
            ("machine", machine),
            ("checkpoint", f"{metrics['checkpoint']}, {metrics['parameters']:,} parameters"),
            ("network", settings_in_words(metrics["network"])),
            ("histograms", f"{settings_in_words(metrics['histogram'])}, as {metrics['input']}"),
            ("trained", settings_in_words(trained)),
        ]
    )


def settings_in_words(settings: dict[str, Any]) -> str:
    known = ((name, value) for name, value in flat(settings) if value not in (None, ""))
    return ", ".join(f"{name} {value}" for name, value in known)


def detections_figure(
    dataset: HistogramDataset, detections: dict[str, np.ndarray], chosen: list[int]
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
            shown(detections[name], t_us),
            f"{name}, {t_us / 1e6:.2f} s",
        )
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    return figure
