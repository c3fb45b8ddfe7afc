"""Deployed network -> its graph, found by watching one forward."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.decode import REG_MAX, STRIDES
from models.deploy import batch_norms
from models.detector import DetectorNetwork
from models.ems import head as ems_head
from models.ems.neuron import LeakySiLU, LIFNode
from models.export.graph import Graph, Layer, Weights, dyadic
from models.neuron import ILIFNode, Neuron

ATTENTION = ("matmul", "bmm", "softmax", "scaled_dot_product_attention", "einsum", "__matmul__")
Settings = dict[str, Any]


def neuron_rule(name: str, module: nn.Module) -> tuple[str, Settings] | None:
    """Kind and settings of a neuron; None for a module that is none. ValueError without a rule."""
    if type(module) in (ILIFNode, LIFNode):
        assert isinstance(module, ILIFNode)
        settings = {
            "max_spikes": module.levels,
            "decay": module.decay,
            "decay_dyadic": dyadic(module.decay),
            "input_scale": module.input_scale,
            "input_scale_dyadic": dyadic(module.input_scale),
            "reset": "hard" if module.hard_reset else "soft",
            "threshold": 0.5,
        }
        return "neuron", settings
    if type(module) is LeakySiLU:
        return "leaky_silu", {"decay": module.decay, "in_place": module.in_place}
    if type(module) is nn.ReLU:
        return "relu", {}
    if isinstance(module, Neuron | base.MemoryModule):
        found = f"cannot export: neuron {name!r} is a {type(module).__name__}"
        raise ValueError(f"{found}, expected ILIFNode, LIFNode, LeakySiLU or ReLU")
    return None


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [*value]


def _conv(
    _x: Tensor, weight: Tensor, _bias: Any, stride: Any, padding: Any, *rest: Any
) -> Settings:
    if isinstance(padding, str):
        raise ValueError(f"cannot export: a convolution pads {padding!r}, expected px")
    sides = {"kernel": weight.shape[2:], "stride": stride, "padding": padding, "dilation": rest[0]}
    return {name: _pair(value) for name, value in sides.items()} | {"groups": rest[1]}


def _add(x: Tensor, y: Any) -> Settings:
    if not isinstance(y, Tensor) or x.shape != y.shape:
        raise ValueError("cannot export: an addition has no rule, expected of two maps")
    return {}


def _concat(maps: list[Tensor], dim: int = 0) -> Settings:
    if dim != maps[0].dim() - 3:
        raise ValueError(f"cannot export: a concatenation of axis {dim}, expected of channels")
    return {}


def _max_pool(
    _x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Settings:
    if _pair(dilation) != [1, 1] or ceil_mode or return_indices:
        raise ValueError(
            "cannot export: a max pool has no rule with dilation, ceil_mode or indices"
        )
    sides = {"kernel": kernel_size, "stride": stride or kernel_size, "padding": padding}
    return {name: _pair(value) for name, value in sides.items()}


def _upsample(
    _x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", **_: Any
) -> Settings:
    if size is not None or scale_factor != 2 or mode != "nearest":
        raise ValueError("cannot export: resizing has no rule, expected nearest, twice as large")
    return {"factor": 2}


def _repeat(_x: Tensor, times: int, dim: int) -> Settings:
    if dim != 0:
        raise ValueError(f"cannot export: a repetition of axis {dim}, expected of time steps")
    return {"times": times}


def _mean(x: Tensor, dim: int) -> Settings:
    if dim != 0 or x.dim() != 5:
        raise ValueError("cannot export: a mean has no rule, expected one over the time steps")
    return {}


#: torch's name of an operation -> our kind of layer, and what its settings are.
RULES: dict[str, tuple[str, Callable[..., Settings]]] = {
    "conv2d": ("conv", _conv),
    "add": ("add", _add),
    "cat": ("concat", _concat),
    "max_pool2d": ("max_pool", _max_pool),
    "interpolate": ("upsample", _upsample),
    "repeat_interleave": ("repeat", _repeat),
    "mean": ("mean", _mean),
}
#: Steps and batch as one axis and back; of the input also bins as channels: `Graph.time` says it.
SAME = ("flatten", "unflatten")
SAME_INPUT = (*SAME, "transpose", "contiguous")


class Tracer(TorchFunctionMode):
    """Writes down what torch is asked for on the way from the input to the maps."""

    def __init__(self, network: nn.Module, x: Tensor, values: str) -> None:
        super().__init__()
        self.layers: list[Layer] = []
        self.weights: dict[str, Weights] = {}
        self._known: dict[int, tuple[str, Tensor]] = {}  # alive, so that ids are their own
        self._parameters = {id(p): name for name, p in network.named_parameters()}
        self._inside = 0  # a neuron, which has a rule of its own
        self._append("input", "input", (), x, {"values": values})

    def enter(self, *_: Any) -> None:
        """A neuron begins."""
        self._inside += 1

    def leave(self, name: str, rule: tuple[str, Settings], _: Any, inputs: Any, y: Tensor) -> None:
        """A neuron has fired."""
        self._inside -= 1
        self._append(name, rule[0], (self.name_of(inputs[0]),), y, rule[1])

    def name_of(self, x: Tensor) -> str:
        """The layer that made a tensor."""
        if id(x) not in self._known:
            raise ValueError("cannot export: a layer reads what no layer with a rule has made")
        return self._known[id(x)][0]

    def _append(
        self, name: str, kind: str, inputs: tuple[str, ...], y: Tensor, settings: Settings
    ) -> None:
        channels, height, width = y.shape[-3:]
        self.layers.append(
            Layer(name, kind, inputs, y.shape[:-3].numel(), (channels, height, width), settings)
        )
        self._known[id(y)] = (name, y)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._inside or not isinstance(result, Tensor) or id(result) in self._known:
            return result
        given = args[0] if args and isinstance(args[0], list | tuple) else args
        read = [self.name_of(a) for a in given if isinstance(a, Tensor) and id(a) in self._known]
        if read:
            name = getattr(func, "__name__", str(func))
            self._record(name, tuple(read), args, kwargs or {}, result)
        return result

    def _record(
        self, func: str, read: tuple[str, ...], args: tuple[Any, ...], kwargs: Any, y: Tensor
    ) -> None:
        if (func in SAME and args[1] == 0) or (read == ("input",) and func in SAME_INPUT):
            self._known[id(y)] = (read[0], y)
            return
        if func not in RULES:
            what = "attention" if func in ATTENTION else "the operation"
            expected = "expected convolutions, neurons, additions, concatenations and pools"
            raise ValueError(f"cannot export: {what} {func!r} has no rule, {expected}")
        kind, rule = RULES[func]
        name = f"{kind}_{len(self.layers)}"
        if kind == "conv":
            weight, bias = args[1], args[2]
            name = self._parameters[id(weight)].removesuffix(".weight")
            arrays = [p.detach().double().numpy().copy() for p in (weight, bias) if p is not None]
            self.weights[name] = Weights(*arrays, *[np.zeros(len(weight))] * (2 - len(arrays)))
        self._append(name, kind, read, y, rule(*args, **kwargs))


def decode_rule(network: DetectorNetwork) -> Settings:
    """What its maps mean, for those who decode them."""
    config = network.config
    if config.family == "ems":
        anchors = [list(map(float, sides)) for sides in config.anchors]  # type: ignore[attr-defined]
        rule: Settings = {"kind": "anchors", "strides": [*ems_head.STRIDES], "anchors": anchors}
    elif config.family == "spikeyolo":
        rule = {"kind": "distances", "strides": [*STRIDES], "bins": REG_MAX}
    else:
        raise ValueError(f"cannot export: maps of family {config.family!r} have no rule")
    return rule | {"num_classes": config.num_classes}


@torch.no_grad()
def trace(deployed: DetectorNetwork, size_hw: tuple[int, int]) -> Graph:
    """The layers of a deployed network on inputs [T, 1, C, H, W] of this size in px.

    Raises ValueError for a trained network, for attention and for an operation that has no rule.
    """
    if batch_norms(deployed):
        found = "the network is a trained one, with batch norms"
        raise ValueError(f"{found}, expected a deployed one: python -m models.deploy")
    for name, module in deployed.named_modules():
        if callable(getattr(module, "work", None)):
            found = f"{name!r} multiplies outputs of neurons, as attention does"
            raise ValueError(f"cannot export: {found}, expected a network of convolutions")
    config = deployed.config
    dtype = next(deployed.parameters()).dtype
    x = torch.zeros(config.time_steps, 1, config.in_channels, *size_hw, dtype=dtype)
    tracer = Tracer(deployed, x, "real" if config.in_channels == 3 else "events")
    handles = []
    for name, module in deployed.named_modules():
        rule = neuron_rule(name, module)
        if rule is not None:
            handles += [module.register_forward_pre_hook(tracer.enter)]
            handles += [module.register_forward_hook(partial(tracer.leave, name, rule))]
    carry, deployed.carry_state = deployed.carry_state, False
    try:
        with tracer:
            maps = deployed(x)
    finally:
        deployed.carry_state = carry
        for handle in handles:
            handle.remove()
    time = {"bins": config.time_steps, "bins_together": config.bins_together}
    outputs = tuple(map(tracer.name_of, maps))
    decode = decode_rule(deployed)
    return Graph(tuple(tracer.layers), tracer.weights, outputs, time, decode, config.family)
