"""What one inference costs: MACs, accumulates and picojoules, layer by layer.

The counts are those of the deployed network (one convolution per synapse layer), over real
batches. A layer that reads spikes accumulates: its MACs of one pass x its mean integer spike
count, summed over the T steps. A layer that reads real values (the stem) multiplies. The
ANN-equivalent is the same graph with ReLU, passed once, its T time bins stacked as channels.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from models.deploy import deploy
from models.neuron import ILIFNode
from models.spikeyolo import SpikeYOLO

#: 32-bit float in 45 nm CMOS. Source: Horowitz, "Computing's Energy Problem", ISSCC 2014.
PJ_PER_MAC = 4.6
PJ_PER_AC = 0.9

ASSUMPTIONS = (
    f"{PJ_PER_MAC} pJ per MAC and {PJ_PER_AC} pJ per AC (32-bit float, 45 nm, Horowitz 2014)",
    "operations of the deployed network: batch norm folded, one dense 3x3 per RepConv",
    "AC = MAC of one pass x mean integer spike count of the layer's input, summed over T steps",
    "the first layer reads event counts and is priced as MAC in every time step",
    "ANN-equivalent: the same graph passed once, time bins stacked as channels, all MAC",
    "left out: memory access, neuron updates, biases, residual adds, pooling, upsampling, decoding",
)


@dataclass(frozen=True)
class LayerEnergy:
    """One synapse layer, per inference of one sample.

    Args:
        name: Module name in the network.
        spikes_per_step: Mean integer spike count of its input, in [0, D]; None for real input.
        firing_rate: spikes_per_step / D; None for real input.
        macs_per_step: Multiply-accumulates a dense pass of one time step needs.
        mac: Multiply-accumulates it does, all T steps.
        ac: Accumulates it does, all T steps.
        snn_pj: Its energy as it runs.
        ann_pj: Its energy in the ANN-equivalent.
    """

    name: str
    spikes_per_step: float | None
    firing_rate: float | None
    macs_per_step: float
    mac: float
    ac: float
    snn_pj: float
    ann_pj: float


@dataclass(frozen=True)
class EnergyReport:
    """Energy of one inference: `layers`, totals, and the assumptions they rest on."""

    layers: tuple[LayerEnergy, ...]
    time_steps: int
    max_spikes: int
    samples: int
    assumptions: tuple[str, ...] = ASSUMPTIONS

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
    def ann_mj(self) -> float:
        return sum(layer.ann_pj for layer in self.layers) * 1e-9

    @property
    def ann_mac(self) -> float:
        return self.ann_mj * 1e9 / PJ_PER_MAC

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
        """Everything in plain numbers, for JSON."""
        totals = ("mac", "ac", "snn_mj", "ann_mj", "ann_mac", "ratio", "firing_rate")
        return {
            **{name: getattr(self, name) for name in totals},
            **asdict(self),
        }


class _Counter:
    """Hooks every neuron and convolution; adds up what flows through while samples pass."""

    def __init__(self, model: nn.Module) -> None:
        self.spikes: Tensor | None = None
        self.input_sum: dict[str, float] = {}
        self.input_numel: dict[str, int] = {}
        self.macs: dict[str, float] = {}
        self.spiking: dict[str, bool] = {}
        self.passes: dict[str, int] = {}
        self.handles = []
        for name, module in model.named_modules():
            if isinstance(module, ILIFNode):
                self.handles.append(module.register_forward_hook(self._fired))
            elif isinstance(module, nn.Conv2d):
                hook = self._convolved(name)
                self.handles.append(module.register_forward_hook(hook))

    def _fired(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.spikes = output

    def _convolved(self, name: str) -> Callable[..., None]:
        def hook(conv: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            (x,) = inputs
            spikes = self.spikes
            reads_spikes = spikes is not None and (
                x.untyped_storage().data_ptr() == spikes.untyped_storage().data_ptr()
            )
            if self.spiking.setdefault(name, reads_spikes) != reads_spikes:
                raise ValueError(f"layer {name!r} reads spikes in one batch and not in another")
            if reads_spikes:
                self.input_sum[name] = self.input_sum.get(name, 0.0) + x.double().sum().item()
            self.input_numel[name] = self.input_numel.get(name, 0) + x.numel()
            self.passes[name] = self.passes.get(name, 0) + len(x)
            self.macs[name] = output[0].numel() * conv.weight[0].numel()

        return hook

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _refuse_unpriced(model: nn.Module) -> None:
    """Every parameter must belong to a convolution, or its cost would be left out in silence."""
    for name, module in model.named_modules():
        owns = next(module.parameters(recurse=False), None) is not None
        if owns and type(module) is not nn.Conv2d:
            raise ValueError(f"cannot price layer {name!r}: {type(module).__name__} is not known")


@torch.no_grad()
def measure_energy(model: SpikeYOLO, batches: Iterable[Tensor]) -> EnergyReport:
    """Price one inference of `model` from batches x [T, B, C, H, W] of what it will really see.

    `model` may be deployed or not; the counts are those of `deploy(model)`. Raises ValueError
    for a weight layer it cannot price or that no batch reaches, and for no batches at all.
    Source of the method: SpikeYOLO, ECCV 2024, with its spreadsheet's slips corrected.
    """
    max_spikes = model.config.max_spikes
    network = deploy(model)
    _refuse_unpriced(network)
    counter = _Counter(network)
    samples, time_steps = 0, 0
    for x in batches:
        if time_steps not in (0, x.shape[0]):
            raise ValueError(f"batches differ in T: {time_steps} and {x.shape[0]}")
        time_steps = x.shape[0]
        samples += x.shape[1]
        network(x)
    counter.remove()
    if not samples:
        raise ValueError("no batches to measure energy on: expected at least one sample")
    names = [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    unseen = [name for name in names if name not in counter.macs]
    if unseen:
        raise ValueError(f"layer {unseen[0]!r} has weights but no batch reached it")
    layers = tuple(_price(name, counter, samples, max_spikes) for name in names)
    return EnergyReport(layers, time_steps, max_spikes, samples)


def _price(name: str, counter: _Counter, samples: int, max_spikes: int) -> LayerEnergy:
    steps = counter.passes[name] / samples
    macs_per_step = counter.macs[name]
    if not counter.spiking[name]:
        mac = macs_per_step * steps
        pj = PJ_PER_MAC * mac  # the ANN's stem reads all T steps at once, as channels
        return LayerEnergy(name, None, None, macs_per_step, mac, ac=0.0, snn_pj=pj, ann_pj=pj)
    spikes_per_step = counter.input_sum[name] / counter.input_numel[name]
    ac = macs_per_step * spikes_per_step * steps
    return LayerEnergy(
        name,
        spikes_per_step,
        spikes_per_step / max_spikes,
        macs_per_step,
        mac=0.0,
        ac=ac,
        snn_pj=PJ_PER_AC * ac,
        ann_pj=PJ_PER_MAC * macs_per_step,
    )
