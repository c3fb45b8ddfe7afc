"""Training network -> inference network: one convolution with bias per synapse layer.

Batch norms fold into the convolution before them and re-parameterised convolutions collapse to
one dense 3x3. So every weight layer of SpikeYOLO but the stem, which reads events, reads spikes
alone; EMS-YOLO's head and some layers of its neck read real values by design. The forward code
stays the same: folded modules become identities.
"""

import copy
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.blocks import (
    ConvBlock,
    Downsample,
    RepConv,
    SepConv,
    SepRepConv,
    SpikeConv,
    scale_and_shift,
)
from models.detector import DetectorNetwork
from models.ems.blocks import RealConv
from models.neuron import ILIFNode


class Affine(NamedTuple):
    """A convolution's weight [out, in / groups, k, k] and bias [out]."""

    weight: Tensor
    bias: Tensor


def affine(module: nn.Module) -> Affine:
    """What a convolution, RepConv or SepRepConv computes, as one convolution."""
    if isinstance(module, RepConv):
        return collapse_rep(module)
    if isinstance(module, SepRepConv):
        return collapse_sep_rep(module)
    if not isinstance(module, nn.Conv2d):
        found = f"cannot fold a {type(module).__name__} into a convolution"
        raise ValueError(f"{found}: expected a trained or a deployed network")
    weight = module.weight
    bias = weight.new_zeros(len(weight)) if module.bias is None else module.bias
    return Affine(weight, bias)


def collapse_rep(rep: RepConv) -> Affine:
    """1x1, padded batch norm, depthwise 3x3, 1x1, batch norm -> one zero-padded dense 3x3."""
    scale, shift = scale_and_shift(rep.bn_pad.bn)
    point_in = rep.pointwise_in.weight[:, :, 0, 0] * scale[:, None]
    spatial = rep.depthwise.weight[:, 0]
    point_out = rep.pointwise_out.weight[:, :, 0, 0]
    weight = torch.einsum("oc,chw,ci->oihw", point_out, spatial, point_in)
    bias = point_out @ (shift * spatial.sum((1, 2)))
    return fold(Affine(weight, bias), rep.bn)


def collapse_sep_rep(rep: SepRepConv) -> Affine:
    """Padded batch norm, 1x1, depthwise 3x3 -> one zero-padded dense 3x3."""
    scale, shift = scale_and_shift(rep.bn_pad.bn)
    point = rep.pointwise.weight[:, :, 0, 0]
    spatial = rep.depthwise.weight[:, 0]
    weight = torch.einsum("ohw,oi->oihw", spatial, point * scale)
    return Affine(weight, (point @ shift) * spatial.sum((1, 2)))


def fold(conv: Affine, bn: _BatchNorm) -> Affine:
    scale, shift = scale_and_shift(bn)
    return Affine(conv.weight * scale[:, None, None, None], conv.bias * scale + shift)


def fused(conv: nn.Module, bn: nn.Module) -> nn.Conv2d:
    """One Conv2d that equals conv then bn (a batch norm, or nothing) at inference."""
    if not isinstance(bn, _BatchNorm | nn.Identity):
        raise ValueError(f"cannot fold a {type(bn).__name__} into a convolution")
    weight, bias = fold(affine(conv), bn) if isinstance(bn, _BatchNorm) else affine(conv)
    if isinstance(conv, nn.Conv2d):
        result = copy.deepcopy(conv)
    else:
        out_channels, in_channels, kernel, _ = weight.shape
        result = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    result.weight, result.bias = nn.Parameter(weight), nn.Parameter(bias)
    return result


#: In each block, which convolution is followed by which batch norm.
FOLDED_PAIRS: dict[type[nn.Module], list[tuple[str, str]]] = {
    SpikeConv: [("conv", "bn")],
    Downsample: [("conv", "bn")],
    RealConv: [("conv", "bn")],
    SepConv: [("pointwise", "bn1"), ("depthwise", "bn2"), ("rep", "bn3")],
    ConvBlock: [("conv1", "bn1"), ("conv2", "bn2")],
}


Network = TypeVar("Network", bound=nn.Module)


def batch_norms(network: nn.Module) -> list[str]:
    """Names of the batch norms of any kind; a deployed network has none."""
    return [name for name, module in network.named_modules() if isinstance(module, _BatchNorm)]


def spiking_synapses(network: nn.Module) -> list[tuple[nn.Module, str, ILIFNode]]:
    """Every convolution that reads spikes: its block, its name there, the neuron that fires."""
    found = []
    for block in network.modules():
        convs = [conv for conv, _ in FOLDED_PAIRS.get(type(block), [])]
        neurons = [module for module in block.children() if isinstance(module, ILIFNode)]
        if convs and neurons:  # the stem has none
            pairs = zip(convs, neurons, strict=True)
            found += [(block, conv, neuron) for conv, neuron in pairs]
    return found


def fold_normalisation(deployed: nn.Module) -> None:
    """Let neurons hand on integers, and divide by D the weights that read them: an I-LIF network.

    Spike2Former, AAAI 2025. Raises ValueError for a neuron whose synapses are not known.
    """
    for block, conv, neuron in spiking_synapses(deployed):
        if neuron.normalize:
            block.get_parameter(f"{conv}.weight").div_(neuron.max_spikes)
            neuron.normalize = False
    for name, module in deployed.named_modules():
        if isinstance(module, ILIFNode) and module.normalize:
            raise ValueError(f"cannot deploy: neuron {name!r} belongs to no known block")
    if isinstance(deployed, DetectorNetwork) and deployed.config.activation == "nilif":
        deployed.config = replace(deployed.config, activation="ilif")


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
        for conv, bn in FOLDED_PAIRS.get(type(block), []):
            setattr(block, conv, fused(getattr(block, conv), getattr(block, bn)))
            setattr(block, bn, nn.Identity())
    fold_normalisation(deployed)
    left = batch_norms(deployed)
    if left:
        raise ValueError(f"cannot deploy: batch norm {left[0]!r} belongs to no known block")
    return deployed.to(dtype).eval().requires_grad_(False)
