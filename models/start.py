"""Begin with the weights of another network: a twin, another D, T, neuron or number of classes."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.checkpoint import Checkpoint
from models.detector import MAX_STRIDE, DetectorConfig, DetectorNetwork
from models.memory import is_of_memory
from models.neuron import neuron_factory


class Start(NamedTuple):
    """Tensors by what became of them: taken as they were, reshaped, or left to begin anew.

    Those of `scaled` were taken times `factor`: they read spikes that now stand for another value.
    """

    taken: list[str]
    reshaped: list[str]
    anew: list[str]
    scaled: list[str]
    factor: float

    def in_words(self) -> str:
        words = [f"{len(self.taken)} tensors taken over"]
        words += [f"reshaped: {', '.join(self.reshaped)}"] if self.reshaped else []
        words += [f"begun anew: {', '.join(self.anew)}"] if self.anew else []
        words += [f"times {self.factor:g}: {', '.join(self.scaled)}"] if self.scaled else []
        return "; ".join(words)


@torch.no_grad()
def start_from(
    model: DetectorNetwork, checkpoint: Checkpoint, source: str, other_classes: bool = False
) -> Start:
    """Overwrite the weights of `model` with those of a trained checkpoint of ours.

    The first convolution is summed over, or repeated for, the time bins it sees at once; the
    layers whose shape tells the number of classes begin anew where that is another, and so does a
    memory that the checkpoint has not. other_classes: as many, but of other names. Where no batch
    norm takes care of it, weights make up for another value of a spike. Nothing else may differ:
    raises ValueError, changing nothing, for another width, family or input.
    """
    if checkpoint.kind != "trained":
        raise ValueError(f"{source}: holds a {checkpoint.kind} network, expected a trained one")
    ours, theirs = model.config, checkpoint.config
    if ours.family != theirs.family:
        raise ValueError(f"{source}: holds a {theirs.family} network, expected {ours.family}")
    if ours.in_channels != theirs.in_channels:
        found = f"{source}: reads {theirs.in_channels} channels"
        raise ValueError(f"{found}, expected {ours.in_channels}")
    stem = first_convolution(model)
    as_many = theirs.num_classes == ours.num_classes
    by_class = layers_of_other_shape(model, theirs.num_classes + (as_many and other_classes))
    fitted: dict[str, Tensor] = {}
    factor = value_of_spikes(theirs) / value_of_spikes(ours)
    start = Start([], [], [], [], factor)
    readers = without_batch_norm(model) if factor != 1 else ()
    current = model.state_dict()
    for name, wanted in current.items():
        given = checkpoint.weights.get(name)
        if name == f"{stem}.weight" and given is not None and given.shape != wanted.shape:
            try:
                given = rebinned(given, theirs.bins_together, ours.bins_together)
            except ValueError as error:
                raise ValueError(f"{source}: {error}") from None
            start.reshaped.append(name)
        elif name.rpartition(".")[0] in by_class or (given is None and is_of_memory(name)):
            start.anew.append(name)
            continue
        elif given is not None and is_of_memory(name) and name.endswith("readout.weight"):  # counts
            given = given * (theirs.input_scale / ours.input_scale)
            start.taken.append(name)
        elif name in readers and given is not None:
            given = given * factor
            start.scaled.append(name)
        else:
            start.taken.append(name)
        if given is None or given.shape != wanted.shape:
            shape = "no such tensor" if given is None else tuple(given.shape)
            raise ValueError(f"{source}: {name} is {shape}, expected {tuple(wanted.shape)}")
        fitted[name] = given
    if extra := checkpoint.weights.keys() - current.keys():
        raise ValueError(f"{source}: {min(extra)} has no place in {ours.name}")
    model.load_state_dict({**current, **fitted})
    return start


def rebinned(weight: Tensor, found: int, wanted: int) -> Tensor:
    """The kernel [out, found * C, k, k] of a layer that sees `found` bins, for `wanted` bins.

    Summed over bins that now come one after another, repeated for bins that now come together:
    either way a scene that stands still gives a step the same sum. ValueError if neither divides.
    """
    out, channels, *kernel = weight.shape
    bins = weight.view(out, found, channels // found, *kernel)
    if found % wanted == 0:
        bins = bins.unflatten(1, (-1, wanted)).sum(1)
    elif wanted % found == 0:
        bins = bins.repeat(1, wanted // found, 1, 1, 1) * (found / wanted)
    else:
        expected = "expected a divisor or a multiple"
        raise ValueError(f"a first layer of {found} bins cannot serve {wanted}, {expected}")
    return bins.flatten(1, 2)


def value_of_spikes(config: DetectorConfig) -> float:
    """What a neuron hands on, on average, for an input of 1 that lasts."""
    neuron = neuron_factory(config)()
    return getattr(neuron, "input_scale", 1.0) * getattr(neuron, "spike_value", 1.0)


@torch.no_grad()
def rescale_statistics(model: DetectorNetwork, factor: float) -> list[str]:
    """Let batch norms follow spikes whose value is 1 / factor of what it was; their names.

    Where they learn they do so by themselves; frozen they cannot.
    """
    norms = norms_of_spikes(model)
    for name, bias in norms.items():
        norm = model.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.sub_(bias).div_(factor).add_(bias)
        norm.running_var.add_(norm.eps).div_(factor**2).sub_(norm.eps)  # so that all is as it was
    return [*norms]


def norms_of_spikes(model: DetectorNetwork) -> dict[str, Tensor]:
    """Batch norms of what convolutions make of a neuron's output, and the bias added before."""
    handles, norms = [], dict[str, Tensor]()
    linear: list[tuple[Tensor, Tensor]] = []  # outputs, kept alive, so that storage tells them

    def bias_of(x: Tensor) -> Tensor | None:
        storage = x.untyped_storage().data_ptr()
        return next((b for y, b in linear if y.untyped_storage().data_ptr() == storage), None)

    def watch(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if hasattr(module, "spike_value"):
            linear.append((output, torch.zeros(())))
        elif (bias := bias_of(inputs[0])) is None:
            return
        elif isinstance(module, nn.Conv2d):
            linear.append((output, bias if module.bias is None else module.bias))
        elif isinstance(module, nn.BatchNorm2d):
            norms[name] = bias

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d) or hasattr(module, "spike_value"):
            handles.append(module.register_forward_hook(partial(watch, name)))
    config, was_training = model.config, model.training
    model.eval()(torch.zeros(config.time_steps, 1, config.in_channels, MAX_STRIDE, MAX_STRIDE))
    model.train(was_training)
    for handle in handles:
        handle.remove()
    return norms


def without_batch_norm(model: nn.Module) -> set[str]:
    """Weights that read a neuron and whose sums no batch norm scales."""
    blocks = [(name, m) for name, m in model.named_modules() if hasattr(m, "neuron")]
    bare = [name for name, m in blocks if isinstance(getattr(m, "bn", None), nn.Identity)]
    return {f"{name}.conv.weight" for name in bare}


def first_convolution(model: nn.Module) -> str:
    """Its name: the layer that reads the input."""
    return next(name for name, m in model.named_modules() if isinstance(m, nn.Conv2d))


def layers_of_other_shape(model: DetectorNetwork, num_classes: int) -> set[str]:
    """Layers that are of another shape in the network of so many classes."""
    with torch.device("meta"):
        other = type(model)(replace(model.config, num_classes=num_classes)).state_dict()
    mine = model.state_dict().items()
    return {name.rpartition(".")[0] for name, t in mine if t.shape != other[name].shape}
