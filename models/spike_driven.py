"""Deployed network -> its binary twin: the same numbers from accumulates alone.

An integer spike count C in 0..D becomes D binary slots of which C are 1, and since a convolution
is linear, W C = sum over the slots of W S. The bias is added once, after the sum.
Source: SpikeYOLO, ECCV 2024, arXiv:2407.20708, section on spike-driven inference.
"""

import copy
from typing import Any

import torch
from spikingjelly.activation_based import layer
from torch import Tensor, nn

from models.deploy import batch_norms, spiking_synapses
from models.detector import DetectorNetwork
from models.operations import refuse_other_max_spikes


class SpikeDrivenConv(nn.Module):
    """A convolution that only ever sees 0 and 1: counts [N, C, H, W] in 0..D -> [N, C', H', W'].

    Raises ValueError if the input holds anything but integers from 0 to D.
    """

    def __init__(self, conv: nn.Conv2d, max_spikes: int) -> None:
        super().__init__()
        self.slots = layer.SpikeCountToBinary(max_spikes, always_convert=True)
        self.conv = copy.deepcopy(conv)
        self.bias, self.conv.bias = self.conv.bias, None
        self.sum = layer.TemporalBinSum(max_spikes, always_convert=True)

    def forward(self, counts: Tensor) -> Tensor:
        binary = self.slots(counts)
        if not torch.equal(self.sum(binary), counts) or not ((binary == 0) | (binary == 1)).all():
            raise ValueError(f"input is not made of integer counts in 0..{self.slots.num_slots}")
        result = self.sum(self.conv(binary))
        return result if self.bias is None else result + self.bias[:, None, None]


@torch.no_grad()
def spike_driven(deployed: DetectorNetwork) -> DetectorNetwork:
    """The binary twin of `deploy(model)`, called the same way, equal up to rounding.

    Every convolution after a neuron, and every product of counts, runs on D binary slots per time
    step; convolutions of events or other real values stay as they are. Raises ValueError for a
    network that is not deployed, not spiking or a twin already, and for neurons of another D than
    its configuration's.
    """
    if batch_norms(deployed):
        raise ValueError("the network has batch norms: pass deploy(model), not the model")
    if any(isinstance(module, SpikeDrivenConv) for module in deployed.modules()):
        raise ValueError("the network is spike-driven already: pass deploy(model), once")
    if not deployed.config.is_spiking:
        found = f"activation {deployed.config.activation!r}"
        raise ValueError(f"{found} has no spike-driven form, expected a spiking one")
    refuse_other_max_spikes(deployed)
    twin = copy.deepcopy(deployed)
    for block, name, neuron in spiking_synapses(twin):
        conv = block.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        block.set_submodule(name, SpikeDrivenConv(conv, neuron.levels))
    products: list[Any] = [m for m in twin.modules() if hasattr(m, "binary_slots")]
    for product in products:
        product.binary_slots = twin.config.max_spikes
    return twin
