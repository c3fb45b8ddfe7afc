"""What an evaluation on pictures looks like: boxes on them, and the curves of every report."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from evaluation.pictures import LABEL_COLOUR, class_colour, energy_per_layer, firing_rates
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
    count = min(pictures, len(images.pictures))
    chosen = np.linspace(0, len(images.pictures) - 1, count).astype(int).tolist()
    figures = {
        "Detections": detections_figure(images, detections, chosen),
        "Precision and recall": precision_recall(found),
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


def precision_recall(found: CocoMetrics) -> Figure:
    """Precision over recall at IoU 0.5, a line per class that has labels."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    recall = np.linspace(0, 1, found.precision.shape[1])
    for k, (name, (_, ap50)) in enumerate(found.per_class.items()):
        if ap50 >= 0:
            label = f"{name}  AP@50 {ap50:.3f}" if len(found.per_class) <= COLUMNS * 4 else None
            axes.plot(recall, found.precision[k], color=class_colour(k), label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left")
    return figure
