"""What one inference costs, layer by layer: MACs, accumulates and picojoules.

The counts are those of the deployed network (one convolution per synapse layer) over real
batches. Spikes are accumulated: each adds the weights it meets. Real values (the stem's events,
what enters EMS-YOLO's head) and the levels of a quantised ANN are multiplied. The ANN-equivalent
is the same graph with ReLU, passed once, its T time bins stacked as channels.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import isnan

import torch
from torch import Tensor

from models.deploy import deploy
from models.detector import DetectorNetwork
from models.operations import LayerOperations, count_operations


@dataclass(frozen=True)
class Prices:
    """Picojoules per operation and per byte moved; `bytes_per_value` of weights and states."""

    name: str
    mac_pj: float
    ac_pj: float
    bytes_per_value: int
    memory_pj_per_byte: float = 24.96


#: 45 nm CMOS. Sources: Horowitz, "Computing's Energy Problem", ISSCC 2014 (a MAC is a multiply
#: and an add: 3.7 + 0.9, 1.1 + 0.4, 0.2 + 0.03 pJ); memory: 3.12 pJ/bit, as SpikingJelly 2.0.
PRICES = {
    "fp32": Prices("fp32", 4.6, 0.9, 4),
    "fp16": Prices("fp16", 1.5, 0.4, 2),
    "int8": Prices("int8", 0.23, 0.03, 1),
}
PJ_PER_MAC, PJ_PER_AC = PRICES["fp32"].mac_pj, PRICES["fp32"].ac_pj


def assumptions(prices: Prices, sparse_input: bool) -> tuple[str, ...]:
    """What the figures rest on, in plain sentences for the report."""
    first = (
        "the first layer multiplies event counts that are not 0 and skips the others, in the "
        "network and in its ANN-equivalent alike, which takes hardware that can"
        if sparse_input
        else "the first layer reads event counts, MAC in every time step, zeros included"
    )
    return (
        f"{prices.mac_pj} pJ per MAC and {prices.ac_pj} pJ per AC "
        f"({prices.name}, 45 nm, Horowitz 2014)",
        "operations of the deployed network: batch norm folded, one dense 3x3 per RepConv",
        "AC: the weights each spike meets, summed over T steps; papers count MAC x mean spikes, "
        "which lets spikes at the border meet the padding too (given as `*_at_rate`)",
        "MAC: dense, padding included; a layer that reads real values multiplies in every step",
        first,
        "products of spikes, as in attention: AC for every pair of spikes that meet, or number "
        "that a spike selects; bilinear readings of deformable attention: 4 MAC each",
        "ANN-equivalent: the same graph passed once, time bins stacked as channels, all MAC",
        "left out of the energy: memory access, neuron updates, biases, residual adds, pooling, "
        "upsampling, decoding",
        f"with memory: {prices.memory_pj_per_byte} pJ per byte for a weight read per operation, a "
        "bias per output, and every neuron's state read and written in every step",
    )


@dataclass(frozen=True)
class LayerEnergy:
    """One synapse layer, per inference of one sample; counts are of all T steps, energies in pJ."""

    name: str  # of the module in the network
    spikes_per_step: float | None  # mean integer count of its input, in [0, D]; None: real input
    firing_rate: float | None  # spikes_per_step / D
    macs_per_step: float  # of a dense pass of one time step
    mac: float  # multiply-accumulates; with sparse input, in the first layer, those not of a 0
    ac: float  # accumulates
    ac_at_rate: float  # the papers' count: macs_per_step * spikes_per_step
    snn_pj: float  # as it runs
    ann_pj: float  # in the ANN-equivalent
    snn_memory_pj: float  # of the memory it touches as it runs, not part of snn_pj
    ann_memory_pj: float  # the same in the ANN-equivalent


@dataclass(frozen=True)
class EnergyReport:
    """Energy of one inference: `layers`, totals, and the assumptions they rest on."""

    layers: tuple[LayerEnergy, ...]
    time_steps: int
    max_spikes: int
    samples: int
    prices: Prices
    sparse_input: bool
    assumptions: tuple[str, ...]

    @property
    def mac(self) -> float:
        return sum(layer.mac for layer in self.layers)

    @property
    def ac(self) -> float:
        return sum(layer.ac for layer in self.layers)

    @property
    def snn_mj(self) -> float:
        return sum(layer.snn_pj for layer in self.layers) * 1e-9

    @property
    def snn_mj_at_rate(self) -> float:
        """The papers' figure, with MAC x mean spikes for AC."""
        ac = sum(layer.ac_at_rate for layer in self.layers)
        return (self.prices.mac_pj * self.mac + self.prices.ac_pj * ac) * 1e-9

    @property
    def snn_mj_with_memory(self) -> float:
        return self.snn_mj + sum(layer.snn_memory_pj for layer in self.layers) * 1e-9

    @property
    def ann_mj(self) -> float:
        return sum(layer.ann_pj for layer in self.layers) * 1e-9

    @property
    def ann_mj_with_memory(self) -> float:
        return self.ann_mj + sum(layer.ann_memory_pj for layer in self.layers) * 1e-9

    @property
    def ann_mac(self) -> float:
        return self.ann_mj * 1e9 / self.prices.mac_pj

    @property
    def ratio(self) -> float:
        """ANN-equivalent energy over the network's own."""
        return self.ann_mj / self.snn_mj

    @property
    def firing_rate(self) -> float:
        """Mean firing rate of the spiking inputs, weighted by their MACs; nan for an ANN."""
        spiking = [
            (layer.firing_rate, layer.macs_per_step)
            for layer in self.layers
            if layer.firing_rate is not None
        ]
        if not spiking:
            return float("nan")
        return sum(rate * macs for rate, macs in spiking) / sum(macs for _, macs in spiking)

    def as_dict(self) -> dict[str, object]:
        """Everything in plain numbers, for JSON; None for the firing rate of an ANN."""
        totals = (
            "mac", "ac", "snn_mj", "snn_mj_at_rate", "snn_mj_with_memory",
            "ann_mac", "ann_mj", "ann_mj_with_memory", "ratio", "firing_rate",
        )  # fmt: skip
        figures = {name: getattr(self, name) for name in totals}
        if isnan(self.firing_rate):
            figures["firing_rate"] = None  # JSON has no nan
        return {**figures, **asdict(self)}


@torch.no_grad()
def measure_energy(
    model: DetectorNetwork,
    batches: Iterable[Tensor | Iterable[Tensor]],
    precision: str = "fp32",
    sparse_input: bool = False,
) -> EnergyReport:
    """Price one inference of `model` from batches x [T, B, C, H, W] of what it will really see.

    Several x in one are a stream, from rest, if the model carries its state.
    `model` may be deployed or not; the counts are those of `deploy(model)`. `precision`: "fp32",
    "fp16" or "int8". `sparse_input`: the first layer skips zeros. Raises ValueError for a weight
    layer it cannot price or that no batch reaches, for a T or D that is not the model's, for a
    spiking model no layer of which was seen to read spikes, for no batches and for an energy of 0.
    Source of the method: SpikeYOLO, ECCV 2024, with its spreadsheet's slips corrected.
    """
    if precision not in PRICES:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(PRICES)}")
    prices, config = PRICES[precision], model.config
    deployed = deploy(model)
    deployed.decoded_only = True
    operations, samples = count_operations(deployed, batches)
    report = EnergyReport(
        tuple(_price(layer, prices, sparse_input) for layer in operations),
        config.steps if config.is_spiking else config.time_steps,
        config.max_spikes,
        samples,
        prices,
        sparse_input,
        assumptions(prices, sparse_input),
    )
    if not report.snn_mj:
        raise ValueError("the network did nothing on these batches: 0 pJ is no price")
    return report


def _price(layer: LayerOperations, prices: Prices, sparse_input: bool) -> LayerEnergy:
    """Spikes accumulate; real values, and the levels of a quantised ANN, multiply in every step."""
    counts = layer.spikes_per_step
    ac = layer.accumulates if layer.is_spiking else 0.0
    mac = 0.0 if layer.is_spiking else layer.macs_per_step * layer.steps
    ann_mac = layer.macs_per_step
    if layer.nonzero_macs is not None:  # the ANN's, too, reads the events of all T steps
        ann_mac = mac = layer.nonzero_macs if sparse_input else mac
    ann_outputs = layer.outputs / layer.steps
    states = 2 * layer.neurons * layer.steps
    value_pj = prices.bytes_per_value * prices.memory_pj_per_byte
    return LayerEnergy(
        layer.name,
        counts,
        None if counts is None or layer.levels is None else counts / layer.levels,
        layer.macs_per_step,
        mac,
        ac,
        ac_at_rate=layer.macs_per_step * (counts or 0.0) * layer.steps if layer.is_spiking else 0.0,
        snn_pj=prices.mac_pj * mac + prices.ac_pj * ac,
        ann_pj=prices.mac_pj * ann_mac,
        snn_memory_pj=value_pj * (ac + mac + layer.outputs + states),
        ann_memory_pj=value_pj * (ann_mac + ann_outputs),
    )
