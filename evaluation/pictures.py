"""Pictures of an evaluation: detections over events, precision-recall, firing and energy."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from gen1.coco import DetectionMetrics
from gen1.spec import CLASSES
from models.energy import EnergyReport

OFF_COLOUR, ON_COLOUR = np.array([52, 101, 164]), np.array([204, 71, 58])
LABEL_COLOUR = "#222222"
CLASS_COLOURS = ("#d98200", "#178a4c")
SPIKING, EQUIVALENT = "#178a4c", "#b9b9b9"


def class_name(class_id: int) -> str:
    return CLASSES[class_id] if class_id < len(CLASSES) else f"class {class_id}"


def class_colour(class_id: int) -> str:
    return CLASS_COLOURS[class_id % len(CLASS_COLOURS)]


def event_image(frames: np.ndarray) -> np.ndarray:
    """Counts uint8 [T, 2, H, W] -> RGB uint8 [H, W, 3]: white, OFF blue, ON red, busier darker."""
    off, on = frames.sum(0, dtype=np.int64)
    busy = np.log1p(off + on)
    strength = (busy / max(np.quantile(busy, 0.995), 1e-9)).clip(0, 1)[..., None]
    share_on = (on / np.maximum(off + on, 1))[..., None]
    colour = ON_COLOUR * share_on + OFF_COLOUR * (1 - share_on)
    return (255 * (1 - strength) + colour * strength).astype(np.uint8)


def draw_detections(
    axes: Axes,
    frames: np.ndarray,
    scale: int,
    labels: np.ndarray,
    detections: np.ndarray,
    title: str,
) -> None:
    """One label time: events, dashed labels, detections with class and score.

    frames: uint8 [T, 2, H, W], one cell of which is `scale` sensor px wide; labels and
    detections: BOX [n] in sensor px, drawn as they are.
    """
    height, width = (side * scale for side in frames.shape[-2:])
    axes.imshow(event_image(frames), extent=(0, width, height, 0), interpolation="nearest")
    for box in labels:
        axes.add_patch(_outline(box, LABEL_COLOUR, linestyle="--"))
    for box in detections:
        colour = class_colour(int(box["class_id"]))
        axes.add_patch(_outline(box, colour, linewidth=1.6))
        text = f"{class_name(int(box['class_id']))} {box['class_confidence']:.2f}"
        axes.text(
            max(box["x"], 0),
            max(box["y"], 8),
            text,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
            color="white",
            fontsize=6,
            va="bottom",
            clip_on=True,
        )
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    axes.set_title(title, fontsize=8)


def _outline(box: np.void, colour: str, linestyle: str = "-", linewidth: float = 1.2) -> Rectangle:
    return Rectangle(
        (box["x"], box["y"]),
        box["w"],
        box["h"],
        fill=False,
        edgecolor=colour,
        linestyle=linestyle,
        linewidth=linewidth,
    )


def precision_recall(metrics: DetectionMetrics) -> Figure:
    """Precision over recall at IoU 0.5, a line per class that has labels."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    recall = np.linspace(0, 1, metrics.precision.shape[1])
    for class_id, (name, (_, ap50)) in enumerate(metrics.per_class.items()):
        if ap50 >= 0:
            label, colour = f"{name}  AP@50 {ap50:.3f}", class_colour(class_id)
            axes.plot(recall, metrics.precision[class_id], color=colour, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title(f"IoU 0.5, protocol {metrics.protocol.name}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    return figure


def firing_rates(energy: EnergyReport) -> Figure:
    """Firing rate of every spiking layer's input, from the stem to the head."""
    rates = {la.name: la.firing_rate for la in energy.layers if la.firing_rate is not None}
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(rates)), list(rates.values()), color=SPIKING)
    axes.axhline(energy.firing_rate, color="#222222", linewidth=1, linestyle="--")
    axes.set_ylabel("firing rate (spikes / T / D)")
    _name_stages(axes, list(rates))
    return figure


def energy_per_layer(energy: EnergyReport) -> Figure:
    """Energy of every layer, spiking beside its ANN-equivalent, in microjoule."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(energy.layers))
    for values, colour, label in (
        ([layer.ann_pj for layer in energy.layers], EQUIVALENT, "ANN-equivalent"),
        ([layer.snn_pj for layer in energy.layers], SPIKING, "this network"),
    ):
        axes.bar(places, np.array(values) * 1e-6, color=colour, label=label)
    axes.set_ylabel("energy per inference (uJ)")
    axes.legend(loc="upper right")
    _name_stages(axes, [layer.name for layer in energy.layers])
    return figure


def _name_stages(axes: Axes, names: Sequence[str]) -> None:
    """Mark where each stage of the network begins."""
    stages = [name.split(".")[0] for name in names]
    starts = [i for i, stage in enumerate(stages) if i == 0 or stage != stages[i - 1]]
    axes.set_xticks(starts, [stages[i] for i in starts], rotation=45, ha="right", fontsize=8)
    axes.set_xlim(-0.7, len(names) - 0.3)
    for start in starts:
        axes.axvline(start - 0.5, color="#dddddd", linewidth=0.8, zorder=0)
