"""What a network fires and costs on a few samples of val, told while it learns."""

from torch import Tensor

from evaluation.report import firing_health
from models.detector import DetectorNetwork
from models.energy import measure_energy
from training.log import Logbook

#: Samples on which firing is measured if no others are drawn; layers that a warning names.
FIRING_SAMPLES, NAMES_SHOWN = 4, 6


def tell_of_firing(
    network: DetectorNetwork, x: Tensor, epoch: int, logbook: Logbook
) -> dict[str, float]:
    """Log the firing rates of a spiking network on x [T, B, C, H, W]; nothing of an ANN.

    Prints what is new about silent and saturated layers; returns the energy of an inference in mJ,
    and how many times less it is than that of the ANN-equivalent.
    """
    if not network.config.is_spiking:
        return {}
    energy = measure_energy(network, [x.to(next(network.parameters()).device)])
    rates = {la.name: la.firing_rate for la in energy.layers if la.firing_rate is not None}
    logbook.add_firing_rates({**rates, "mean": energy.firing_rate}, epoch)
    for line in logbook.add_firing_health(firing_health(energy.as_dict(), NAMES_SHOWN), epoch):
        print(line, flush=True)
    return {"val_mj": energy.snn_mj, "val_ann_ratio": energy.ratio}
