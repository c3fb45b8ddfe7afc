"""The report of one evaluation: pictures, and one HTML page that holds them all."""

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gen1.atomic import atomic_write
from gen1.coco import DetectionMetrics
from gen1.spec import CLASSES
from models.energy import EnergyReport
from preprocessing.dataset import HistogramDataset
from reporting.examples import at, pick_examples, shown
from reporting.pictures import draw_detections, energy_per_layer, firing_rates, precision_recall
from reporting.table import results_table

COLUMNS = 3

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em }}
pre {{ background: #f5f5f5; padding: 1em; overflow-x: auto }}
img {{ max-width: 100% }}
h2 {{ margin-top: 1.6em; break-after: avoid }} figure {{ margin: 0; break-inside: avoid }}
</style>
<h1>{title}</h1>
<pre>{table}</pre>
{figures}
<h2>Assumptions behind the energy</h2>
<ul>{assumptions}</ul>
</html>
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
    parts = []
    for title, figure in figures.items():
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=110)
        with atomic_write(directory / f"{title.lower().replace(' ', '_')}.png") as file:
            file.write(png.getvalue())
        encoded = base64.b64encode(png.getvalue()).decode()
        parts.append(
            f'<h2>{title}</h2><figure><img alt="{title}" '
            f'src="data:image/png;base64,{encoded}"></figure>'
        )
    page = PAGE.format(
        title=f"{html.escape(metrics['model'])} on {html.escape(metrics['split'])}",
        table=html.escape(results_table(metrics, CLASSES)),
        figures="\n".join(parts),
        assumptions="".join(f"<li>{html.escape(text)}</li>" for text in energy.assumptions),
    )
    with atomic_write(directory / "report.html") as file:
        file.write(page.encode())


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
            at(dataset.labels(name), t_us),
            shown(detections[name], t_us),
            f"{name}, {t_us / 1e6:.2f} s",
        )
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    return figure
