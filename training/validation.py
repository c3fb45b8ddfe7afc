"""Detections of all ranks as one, and what TensorBoard shows of them."""

from collections.abc import Sequence

import numpy as np

from evaluation.detect import Detections
from evaluation.report import detections_figure, firing_health
from models.detector import DetectorNetwork
from models.energy import measure_energy
from preprocessing.dataset import HistogramDataset, collate
from training.logbook import Logbook

#: Label times on which firing is measured if no pictures are drawn; layers a warning names.
FIRING_SAMPLES, NAMES_SHOWN = 4, 6


def merged(shares: Sequence[Detections]) -> Detections:
    """The detections of all ranks, per recording in order of time, as one process has them."""
    together = {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}
    return {name: boxes[boxes["t"].argsort(kind="stable")] for name, boxes in together.items()}


def show_validation(
    logbook: Logbook,
    epoch: int,
    model: DetectorNetwork,
    val_set: HistogramDataset,
    detections: Detections,
    pictures: int,
) -> list[str]:
    """Log `pictures` label times with boxes, and the firing rates of a spiking model on them.

    Without pictures, rates are those of FIRING_SAMPLES label times. Returns lines to print:
    what is new about silent and saturated layers.
    """
    if pictures:
        figure = detections_figure(val_set, detections, spread_out(val_set, pictures))
        logbook.add_picture("val", figure, epoch)
    if not model.config.is_spiking:
        return []
    chosen = spread_out(val_set, pictures or FIRING_SAMPLES)
    batch = collate([val_set[index] for index in chosen])
    device = next(model.parameters()).device
    energy = measure_energy(model, [batch.to(device).network_input()])
    rates = {la.name: la.firing_rate for la in energy.layers if la.firing_rate is not None}
    logbook.add_firing_rates({**rates, "mean": energy.firing_rate}, epoch)
    return logbook.add_firing_health(firing_health(energy.as_dict(), NAMES_SHOWN), epoch)


def spread_out(val_set: HistogramDataset, count: int) -> list[int]:
    """Indices of `count` samples, evenly over the split."""
    return np.linspace(0, len(val_set) - 1, min(count, len(val_set))).astype(int).tolist()
