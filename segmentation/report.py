"""What an evaluation on masks looks like: prediction beside truth, who is taken for whom."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from evaluation.pictures import energy_per_layer, firing_rates
from evaluation.provenance import rule_of
from evaluation.report import Page, energy_rows, firing_health, settings_in_words
from models.detector import DetectorNetwork
from models.energy import EnergyReport
from segmentation.predict import predicted
from segmentation.score import Confusion, Scores
from segmentation.sources import ToScore
from segmentation.spec import IGNORED, MaskSpec

#: How much of a mask's colour lies over what is below it.
OPACITY = 0.55
RULES = {
    "present": "mean over the classes that are in masks or predictions",
    "all": "mean over all classes, those that are nowhere as 0",
}


def figures_of(
    model: DetectorNetwork,
    source: ToScore,
    chosen: Sequence[int],
    confusion: Confusion,
    energy: EnergyReport,
) -> dict[str, Figure]:
    """Title -> figure, for the report."""
    figures = {"Prediction and truth": masks_figure(model, source, chosen)} if chosen else {}
    figures["Who is taken for whom"] = confusion_figure(confusion)
    figures["Firing rate per layer"] = firing_rates(energy)
    figures["Energy per layer"] = energy_per_layer(energy)
    return figures


def masks_figure(model: DetectorNetwork, source: ToScore, chosen: Sequence[int]) -> Figure:
    """A row per sample: what the network sees, the predicted classes, the labelled ones."""
    model.eval()
    labels = [source.mask(index) for index in chosen]
    found = []
    for index, mask in zip(chosen, labels, strict=True):  # one by one: sizes may differ
        found += predicted(model, source.stack([source[index]]), source, [mask])
    figure = Figure(figsize=(11, 3.1 * len(chosen) + 0.5), layout="constrained")
    axes = figure.subplots(len(chosen), 3, squeeze=False)
    for row, index, classes, mask in zip(axes, chosen, found, labels, strict=True):
        plain = source.picture(index)
        for axis, picture, title in (
            (row[0], plain, source.title(index)),
            (row[1], painted(plain, classes, source.spec), "predicted"),
            (row[2], painted(plain, mask, source.spec), "labelled"),
        ):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
            axis.set_title(title, fontsize=8)
    seen = sorted({int(k) for classes in found for k in np.unique(classes)})
    palette, names = source.spec.palette() / 255, source.spec.classes
    keys = [Patch(color=palette[k], label=names[k]) for k in seen]
    figure.legend(handles=keys, loc="outside lower center", ncols=6, fontsize=8)
    return figure


def painted(plain: np.ndarray, classes: np.ndarray, spec: MaskSpec) -> np.ndarray:
    """RGB uint8 [H, W, 3]: the colours of the classes over a picture, none where ignored."""
    colours = spec.palette()[classes]
    share = np.where(classes == IGNORED, 0.0, OPACITY)[..., None]
    return (plain * (1 - share) + colours * share).astype(np.uint8)


def confusion_figure(confusion: Confusion) -> Figure:
    """Of the pixels of each class, the share that was taken for each."""
    matrix, classes = confusion.matrix, confusion.classes
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = 2.2 + 0.32 * len(classes)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7)
    axes.set_yticks(range(len(classes)), classes, fontsize=7)
    axes.set(xlabel="predicted", ylabel="labelled")
    for row, column in zip(*np.nonzero(shares >= 0.01), strict=True):
        ink = "white" if shares[row, column] > 0.5 else "black"
        text = f"{shares[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=6)
    return figure


def results_table(metrics: dict[str, Any], scores: Scores) -> str:
    """mIoU by both rules and IoU per class beside the energy, for the terminal."""
    energy, network = metrics["energy"], metrics["network"]
    title = (
        f"{metrics['model']}, head {network['head']}, T={energy['time_steps']}, "
        f"D={energy['max_spikes']}, {network['activation']}, split {metrics['split']}, "
        f"commit {metrics['commit']}, config {metrics['config_hash']}"
    )
    priced = "\n".join(f"  {name:<18}{value:>14}" for name, value in energy_rows(energy))
    health = "".join(f"\n\nwarning: {sentence}" for sentence in firing_health(energy))
    return f"{title}\n\n{scores}\n\nper inference\n{priced}{health}"


def page_of(metrics: dict[str, Any], scores: Scores) -> Page:
    """The words of the report."""
    rows = zip(scores.classes, scores.iou, scores.accuracy, scores.pixels.tolist(), strict=True)
    classes = [["class", "IoU", "accuracy", "labelled pixels"]]
    classes += [[name, share(iou), share(found), f"{n:,}"] for name, iou, found, n in rows]
    sources = {
        **{f"mIoU ({rule})": RULES[rule] for rule in scores.miou},
        "split": f"{metrics['split']}: {metrics['protocols']['present']['images']} masks",
        "masks, CRC-32": f"{metrics['recordings_crc32']:08x}",
        "evaluated": f"commit {metrics['commit']}, config {metrics['config_hash']}",
        "machine": settings_in_words(metrics["environment"]),
        "checkpoint": f"{metrics['checkpoint']}, {metrics['parameters']:,} parameters",
        "network": settings_in_words(metrics["network"]),
        "histograms": settings_in_words(metrics["histogram"]),
        "trained": settings_in_words(metrics["trained"]),
    }
    title = "Intersection over union per class"
    return Page(results_table(metrics, scores), title, classes, rule_of(metrics), sources)


def share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"
