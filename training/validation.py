"""Detections of all ranks as one, and what TensorBoard shows of them."""

from collections.abc import Sequence

import numpy as np

from eval_gen1 import Detections, batches
from models.energy import measure_energy
from models.spikeyolo import SpikeYOLO
from preprocessing.dataset import HistogramDataset
from reporting.report import detections_figure
from training.logbook import Logbook


def merged(shares: Sequence[Detections]) -> Detections:
    """The detections of all ranks, per recording in order of time, as one process has them."""
    together = {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}
    return {name: boxes[boxes["t"].argsort(kind="stable")] for name, boxes in together.items()}


def show_validation(
    logbook: Logbook,
    epoch: int,
    model: SpikeYOLO,
    val_set: HistogramDataset,
    detections: Detections,
    pictures: int,
) -> None:
    """Log `pictures` label times with boxes, and the firing rates of a spiking model on them."""
    chosen = np.linspace(0, len(val_set) - 1, min(pictures, len(val_set))).astype(int).tolist()
    logbook.add_picture("val", detections_figure(val_set, detections, chosen), epoch)
    if model.config.is_spiking:
        device = next(model.parameters()).device
        loader = batches(val_set, len(chosen), 0, sampler=chosen)
        energy = measure_energy(model, (b.to(device).network_input() for b in loader))
        rates = {la.name: la.firing_rate for la in energy.layers if la.firing_rate is not None}
        logbook.add_firing_rates({**rates, "mean": energy.firing_rate}, epoch)
