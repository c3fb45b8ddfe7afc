"""Count what one inference does: hooks on the deployed network while real batches pass."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from spikingjelly.activation_based import functional
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.detector import DetectorNetwork
from models.neuron import Neuron, neurons


@dataclass(frozen=True)
class LayerOperations:
    """One synapse layer, or product of spikes, in one inference; mean of the samples."""

    name: str  # of the module in the network; of a product, with the part's
    steps: float  # passes: time steps, or 1 in a network without time
    macs_per_step: float  # of one dense pass, those with padding included
    outputs: float  # numbers it computes, all steps
    is_spiking: bool  # are its counts spikes, or the levels of a quantised ANN?
    spikes_per_step: float | None  # mean count of its input, in [0, levels]; None: real values
    accumulates: float  # weights its counts meet, all steps; a border meets fewer; 0: real values
    levels: int | None = None  # largest count of its input; None: real values, products
    neuron: str | None = None  # whose counts it reads; None: real values, products
    neurons: float = 0  # that feed it, each holding a state; 0 without spikes
    #: Of what is not 0 in the network's input, all steps; None for every layer but the first.
    nonzero_macs: float | None = None


class Work(NamedTuple):
    """A part of what a module without weights did in a call, over all steps and samples.

    Such a module says so itself: `work(inputs, output)` -> a list of them. `macs`: dense.
    `accumulates`: additions that spikes asked for; None for real values, which multiply.
    """

    part: str
    macs: float
    accumulates: float | None
    outputs: int


class _Product:
    """What a part of a module without weights has done so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.macs = self.accumulates = 0.0
        self.outputs = 0
        self.is_spiking = False

    def add(self, work: Work, network_spikes: bool) -> None:
        self.is_spiking = network_spikes and work.accumulates is not None
        self.macs += work.macs
        self.accumulates += work.accumulates or 0.0
        self.outputs += work.outputs

    def result(self, samples: int, steps: int) -> LayerOperations:
        """Its "spikes per step" are accumulates per multiplication of the dense product."""
        spiking = self.is_spiking
        return LayerOperations(
            self.name,
            steps=steps,
            macs_per_step=self.macs / samples / steps,
            outputs=self.outputs / samples,
            is_spiking=spiking,
            spikes_per_step=self.accumulates / self.macs if spiking else None,
            accumulates=self.accumulates / samples if spiking else 0.0,
        )


class _Layer:
    """What has passed one convolution so far."""

    def __init__(self, name: str, conv: nn.Conv2d) -> None:
        self.name, self.conv = name, conv
        self.neuron: Neuron | None = None  # whose counts it reads
        self.first = False
        self.passes = self.elements = self.outputs = 0  # of all batches, whose maps may differ
        self.spikes = self.accumulates = self.nonzero_macs = 0.0

    def add(self, x: Tensor, output: Tensor, neuron: Neuron | None, first: bool) -> None:
        if self.passes and neuron is not self.neuron:
            raise ValueError(f"layer {self.name!r} reads spikes in one batch, not in another")
        self.neuron, self.first = neuron, first
        self.passes += len(x)
        self.elements += x.numel()
        self.outputs += output.numel()
        if neuron is not None:
            self.spikes += x.double().sum().item()
            self.accumulates += weights_met(self.conv, x)
        elif first:
            self.nonzero_macs += weights_met(self.conv, x != 0)

    def result(self, samples: int, names: dict[Neuron, str]) -> LayerOperations:
        neuron = self.neuron
        is_spiking = neuron is not None and neuron.is_spiking
        return LayerOperations(
            self.name,
            steps=self.passes / samples,
            macs_per_step=self.outputs * self.conv.weight[0].numel() / self.passes,
            outputs=self.outputs / samples,
            is_spiking=is_spiking,
            spikes_per_step=None if neuron is None else self.spikes / self.elements,
            accumulates=self.accumulates / samples,
            levels=None if neuron is None else neuron.levels,
            neuron=None if neuron is None else names[neuron],
            neurons=self.elements / self.passes if is_spiking else 0,
            nonzero_macs=self.nonzero_macs / samples if self.first and neuron is None else None,
        )


#: What multiplies two numbers that the input decides, by the last part of torch's names.
PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "baddbmm", "addmm", "addbmm", "mv"}
PRODUCTS |= {"einsum", "tensordot", "linear", "bilinear", "scaled_dot_product_attention"}
PRODUCTS |= {"grid_sample", "conv1d", "conv2d", "conv3d", "conv_transpose2d"}
BY_PLACE = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply", "addcmul"}
#: Axes of a map; constants that scale one have fewer.
MAP_AXES = 4


class NothingUncounted(TorchFunctionMode):
    """ValueError for a product outside a neuron, a convolution, and what says its `work`."""

    def __init__(self, network: nn.Module, counted: Collection[str]) -> None:
        super().__init__()
        self.path: list[str] = []  # modules that run now
        self.counted = set(counted)
        self.handles: list[Any] = []
        for name, module in network.named_modules():
            self.handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
            self.handles.append(module.register_forward_hook(self._leave))

    def _enter(self, name: str, _module: nn.Module, _inputs: Any) -> None:
        self.path.append(name)

    def _leave(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        self.path.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        maps = sum(isinstance(arg, Tensor) and arg.dim() >= MAP_AXES for arg in args[-2:])
        multiplies = name in PRODUCTS or (name in BY_PLACE and maps == 2)
        if multiplies and self.counted.isdisjoint(self.path):
            found = f"{name} in {self.path[-1] if self.path else ''!r}"
            expected = "expected a convolution, or a module that says its work"
            raise ValueError(f"cannot price {found}, a product that no rule covers: {expected}")
        return func(*args, **(kwargs or {}))


def fan_out(conv: nn.Conv2d, size_hw: Sequence[int]) -> Tensor:
    """How many weights a spike at each pixel of an input channel meets, float64 [H, W]."""
    H, W = size_hw
    ones = torch.ones(1, 1, H, W, dtype=torch.float64, device=conv.weight.device)
    kernel = torch.ones(1, 1, *conv.kernel_size, dtype=torch.float64, device=conv.weight.device)
    with torch.enable_grad():
        ones.requires_grad_(True)
        reached = F.conv2d(ones, kernel, None, conv.stride, conv.padding, conv.dilation)
        (places,) = torch.autograd.grad(reached.sum(), ones)
    return places[0, 0] * (conv.out_channels // conv.groups)


def weights_met(conv: nn.Conv2d, counts: Tensor) -> float:
    """How many weights counts [N, C, H, W] of spikes or events meet in all."""
    return (counts.double().sum((0, 1)) * fan_out(conv, counts.shape[-2:])).sum().item()


def refuse_unknown_layers(network: nn.Module) -> None:
    """Every parameter must belong to a convolution, or its cost would be left out in silence."""
    for name, module in network.named_modules():
        owns = next(module.parameters(recurse=False), None) is not None
        if owns and type(module) is not nn.Conv2d:
            raise ValueError(f"cannot price layer {name!r}: {type(module).__name__} is not known")


def refuse_other_max_spikes(network: DetectorNetwork) -> None:
    """Every neuron must have the D of the configuration, or rates and slots would be wrong."""
    D = network.config.max_spikes
    for name, neuron in neurons(network).items():
        if neuron.levels * neuron.repeats != D:
            found = f"neuron {name!r} has D={neuron.levels}"
            raise ValueError(f"{found}, the network's configuration says D={D // neuron.repeats}")


def refuse_unseen(
    deployed: DetectorNetwork,
    layers: Collection[_Layer],
    products: Collection[str],
    seen: Collection[str],
) -> None:
    """ValueError for a layer or product that no batch reached, and for spikes that never came.

    products: modules that say their work; seen: the parts of them that did some.
    """
    for name in products:
        if not any(f"{part}.".startswith(f"{name}.") for part in seen):
            raise ValueError(f"product {name!r} has a price but no batch reached it")
    for layer in layers:
        if not layer.passes:
            raise ValueError(f"layer {layer.name!r} has weights but no batch reached it")
    if deployed.config.is_spiking and not any(layer.neuron for layer in layers):
        found = f"the network spikes (activation {deployed.config.activation!r})"
        expected = "expected neurons that say levels, repeats, spike_value and is_spiking"
        raise ValueError(f"{found}, but no layer was seen to read spikes: {expected}")


def _run(
    deployed: DetectorNetwork,
    batches: Iterable[Tensor | Iterable[Tensor]],
    uncounted: NothingUncounted,
) -> int:
    """Let all batches pass; how many samples they were."""
    samples, time_steps = 0, deployed.config.time_steps
    for batch in batches:
        functional.reset_net(deployed)
        for x in [batch] if isinstance(batch, Tensor) else batch:
            if x.shape[0] != time_steps:
                found = f"a batch has T={x.shape[0]} time steps"
                raise ValueError(f"{found}, the model was built for T={time_steps}")
            samples += x.shape[1]
            with uncounted:
                deployed(x)
    if not samples:
        raise ValueError("no batches to measure energy on: expected at least one sample")
    return samples


@torch.no_grad()
def count_operations(
    deployed: DetectorNetwork, batches: Iterable[Tensor | Iterable[Tensor]]
) -> tuple[tuple[LayerOperations, ...], int]:
    """Run batches x [T, B, C, H, W] through a deployed network -> its layers, samples.

    Several x in one are a stream: state is carried from one to the next, where the network does. A
    layer reads spikes if its input is the very output of the neuron before it. Raises
    ValueError for a weight layer that is not a convolution or that no batch reaches, for T or D
    other than the network's, and for no batches at all.
    """
    refuse_unknown_layers(deployed)
    refuse_other_max_spikes(deployed)
    latest: list[tuple[Tensor, Neuron]] = []  # kept alive, so that its storage is its own
    layers: dict[str, _Layer] = {}
    handles = []

    def fired(neuron: Any, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        latest[:] = [(output, neuron)]

    def watch(layer: _Layer):  # type: ignore[no-untyped-def]
        def convolved(_conv: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            (x,) = inputs
            storage = x.untyped_storage().data_ptr()
            read = [n for spikes, n in latest if spikes.untyped_storage().data_ptr() == storage]
            first = layer.first or not any(other.passes for other in layers.values())
            layer.add(x, output, read[0] if read else None, first)

        return convolved

    def worked(name: str):  # type: ignore[no-untyped-def]
        def did(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            for work in module.work(inputs, output):
                whole = f"{name}.{work.part}".rstrip(".")
                products.setdefault(whole, _Product(whole)).add(work, deployed.config.is_spiking)

        return did

    products: dict[str, _Product] = {}
    worked_by: list[str] = []
    firing = neurons(deployed)
    for name, module in deployed.named_modules():
        if name in firing:
            handles.append(module.register_forward_hook(fired))
        elif isinstance(module, nn.Conv2d):
            layers[name] = _Layer(name, module)
            handles.append(module.register_forward_hook(watch(layers[name])))
        elif callable(getattr(module, "work", None)):
            worked_by.append(name)
            handles.append(module.register_forward_hook(worked(name)))
    uncounted = NothingUncounted(deployed, [*firing, *layers, *worked_by])
    handles += uncounted.handles
    try:
        samples = _run(deployed, batches, uncounted)
    finally:
        for handle in handles:
            handle.remove()
    refuse_unseen(deployed, layers.values(), worked_by, products)
    names = {neuron: name for name, neuron in firing.items()}
    of_weights = [layer.result(samples, names) for layer in layers.values()]
    of_products = [p.result(samples, deployed.config.steps) for p in products.values()]
    return (*of_weights, *of_products), samples
