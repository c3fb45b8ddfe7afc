"""What an evaluation on pictures looks like: boxes on them, and the curves of every report."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from evaluation.detect import spread_out
from evaluation.pictures import (
    LABEL_COLOUR,
    class_colour,
    energy_per_layer,
    firing_rates,
    precision_recall,
)
from evaluation.report import page_of, write_page
from images.coco import ImageSet, Picture, read_picture
from images.score import CocoMetrics
from models.energy import EnergyReport

SHOWN_SCORE, COLUMNS = 0.3, 3


def write_report(
    directory: Path,
    metrics: dict[str, Any],
    found: CocoMetrics,
    energy: EnergyReport,
    images: ImageSet,
    detections: dict[int, np.ndarray],
    pictures: int,
) -> None:
    """Write report.html, self-contained, and its pictures as PNG into `directory`."""
    chosen = spread_out(len(images.pictures), pictures)
    figures = {
        "Detections": detections_figure(images, detections, chosen),
        "Precision and recall": precision_recall(found.precision, found.per_class),
        "Firing rate per layer": firing_rates(energy),
        "Energy per layer": energy_per_layer(energy),
    }
    sources = {
        "protocol coco": metrics["protocols"]["coco"]["rule"],
        "pictures": metrics["images"],
        "checkpoint": metrics["checkpoint"],
        "evaluated": f"commit {metrics['commit']}, config {metrics['config_hash']}",
    }
    write_page(directory, metrics, figures, page_of(metrics, sources))


def detections_figure(
    images: ImageSet, detections: dict[int, np.ndarray], chosen: list[int]
) -> Figure:
    """Chosen pictures: labels dashed, detections of score >= 0.3 with class and score."""
    rows = max(-(-len(chosen) // COLUMNS), 1)
    figure = Figure(figsize=(11, 3.6 * rows), layout="constrained")
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    for index, axis in zip(chosen, axes, strict=False):
        picture = images.pictures[index]
        draw(axis, picture, detections[picture.id], images.categories)
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    return figure


def draw(axes: Axes, picture: Picture, rows: np.ndarray, categories: tuple[str, ...]) -> None:
    axes.imshow(read_picture(picture.path))
    for x1, y1, x2, y2 in picture.boxes:
        outline = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=LABEL_COLOUR)
        outline.set_linestyle("--")
        axes.add_patch(outline)
    for x1, y1, x2, y2, score, k in rows[rows[:, 4] >= SHOWN_SCORE]:
        colour = class_colour(int(k))
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour))
        frame = {"facecolor": colour, "edgecolor": "none", "pad": 1}
        text = f"{categories[int(k)]} {score:.2f}"
        axes.text(x1, max(y1, 8), text, bbox=frame, color="white", fontsize=6, clip_on=True)
    axes.set(xticks=[], yticks=[])
    axes.set_title(picture.path.name, fontsize=8)
