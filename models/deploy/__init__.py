"""Training network -> inference network: one convolution with bias per synapse layer.

Batch norms fold into the convolution before them and re-parameterised convolutions collapse to
one dense 3x3. So every weight layer of SpikeYOLO but the stem, which reads events, reads spikes
alone; EMS-YOLO's head and some layers of its neck read real values by design. The forward code
stays the same: folded modules become identities.
"""

import copy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.blocks import Affine
from models.detector import DetectorNetwork
from models.neuron import NEURONS, Neuron, neurons


def affine(module: nn.Module) -> Affine:
    """What a convolution, or a block that says it itself, computes as one convolution."""
    if isinstance(module, nn.Conv2d):
        weight = module.weight
        return Affine(weight, weight.new_zeros(len(weight)) if module.bias is None else module.bias)
    says_itself = getattr(module, "affine", None)
    if not callable(says_itself):
        found = f"cannot fold a {type(module).__name__} into a convolution"
        raise ValueError(f"{found}: expected a trained or a deployed network")
    return says_itself()


def fused(conv: nn.Module, bn: nn.Module) -> nn.Conv2d:
    """One Conv2d that equals conv then bn (a batch norm, or nothing) at inference."""
    if not isinstance(bn, _BatchNorm | nn.Identity):
        raise ValueError(f"cannot fold a {type(bn).__name__} into a convolution")
    weight, bias = affine(conv).then(bn) if isinstance(bn, _BatchNorm) else affine(conv)
    if isinstance(conv, nn.Conv2d):
        result = copy.deepcopy(conv)
    else:
        out_channels, in_channels, kernel, _ = weight.shape
        result = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    result.weight, result.bias = nn.Parameter(weight), nn.Parameter(bias)
    return result


Network = TypeVar("Network", bound=nn.Module)


def batch_norms(network: nn.Module) -> list[str]:
    """Names of the batch norms of any kind; a deployed network has none."""
    return [name for name, module in network.named_modules() if isinstance(module, _BatchNorm)]


def folds_of(block: nn.Module) -> tuple[tuple[str, str], ...]:
    """Names of its convolutions, each with that of the batch norm behind it."""
    return getattr(block, "folds", ())


def spiking_synapses(network: nn.Module) -> list[tuple[nn.Module, str, Neuron]]:
    """Every convolution that reads spikes: its block, its name there, the neuron that fires.

    A block says itself which neuron each convolution `reads`, or has one before each.
    """
    found: list[tuple[nn.Module, str, Neuron]] = []
    for block in network.modules():
        if says_itself := getattr(block, "reads", ()):
            pairs = ((conv, block.get_submodule(neuron)) for conv, neuron in says_itself)
            found += [(block, conv, neuron) for conv, neuron in pairs if isinstance(neuron, Neuron)]
            continue
        convs = [conv for conv, _ in folds_of(block)]
        firing = [module for module in block.children() if isinstance(module, Neuron)]
        if convs and firing:  # the stem has none
            found += [(block, *pair) for pair in zip(convs, firing, strict=True)]
    return found


def fold_spike_values(deployed: nn.Module) -> None:
    """Let neurons hand on integers, and divide by D the weights that read them: an I-LIF network.

    What else reads them, products of spikes, asks the neuron. Spike2Former, AAAI 2025. Raises
    ValueError for a neuron whose readers are not known.
    """
    for block, conv, neuron in spiking_synapses(deployed):
        block.get_submodule(conv).get_parameter("weight").mul_(neuron.spike_value)
    known: set[object] = {neuron for _block, _conv, neuron in spiking_synapses(deployed)}
    for block in deployed.modules():
        known.update(block.get_submodule(name) for name in getattr(block, "multiplies", ()))
    for name, neuron in neurons(deployed).items():
        if neuron.spike_value != 1 and neuron not in known:
            raise ValueError(f"cannot deploy: neuron {name!r} belongs to no known block")
        if neuron.spike_value != 1:
            neuron.spike_value = 1.0
    if isinstance(deployed, DetectorNetwork):
        activation = deployed.config.activation
        activation = NEURONS[activation].deployed or activation
        deployed.config = replace(deployed.config, activation=activation)


@torch.no_grad()
def deploy(model: Network) -> Network:
    """A folded copy of `model` in evaluation mode, called the same way, with the same outputs.

    Folded in float64, returned in the model's dtype. Normalised neurons (NI-LIF) come back as
    I-LIF, their D in the weights; a deployed network as it is. Raises ValueError for a spike-driven
    twin and if a batch norm is left over. The model itself is not modified.
    `python -m models.deploy` does it to a checkpoint.
    """
    dtype = next(model.parameters()).dtype
    deployed = copy.deepcopy(model).double()
    for block in list(deployed.modules()):
        for conv, bn in folds_of(block):
            setattr(block, conv, fused(getattr(block, conv), getattr(block, bn)))
            setattr(block, bn, nn.Identity())
    for block in list(deployed.modules()):
        if callable(fold := getattr(block, "fold", None)):  # factors of its own into weights
            fold()
    fold_spike_values(deployed)
    left = batch_norms(deployed)
    if left:
        raise ValueError(f"cannot deploy: batch norm {left[0]!r} belongs to no known block")
    return deployed.to(dtype).eval().requires_grad_(False)
