"""Energy as something to learn: what accumulates cost, with a gradient to the spikes."""

from functools import partial

import torch
from torch import Tensor, nn

from models.deploy import deploy
from models.detector import DetectorNetwork
from models.energy import PJ_PER_AC, PJ_PER_MAC
from models.neuron import neurons
from models.operations import count_operations


class EnergyMeter:
    """Watches a network's neurons: each spike costs an accumulate for every weight it meets.

    x [T, B, C, H, W]: one batch of the size to come, from which the weights that a spike of each
    neuron meets in the deployed network are counted, at the border as inside. Raises ValueError
    for a network that does not spike.
    """

    def __init__(self, network: DetectorNetwork, x: Tensor) -> None:
        if not network.config.is_spiking:
            found = f"activation {network.config.activation!r}"
            raise ValueError(f"{found} has no energy of spikes to learn, expected a spiking one")
        layers, _ = count_operations(deploy(network), [x])
        self.ann_pj = PJ_PER_MAC * sum(
            la.macs_per_step * (1 if la.nonzero_macs is None else la.steps) for la in layers
        )
        self._price_pj: dict[str, float] = {}
        for la in layers:
            if la.is_spiking and la.neuron is not None:
                met = la.macs_per_step / la.neurons
                self._price_pj[la.neuron] = self._price_pj.get(la.neuron, 0.0) + PJ_PER_AC * met
        self._spent: dict[str, Tensor] = {}
        for name, neuron in neurons(network).items():
            if name in self._price_pj:
                assert isinstance(neuron, nn.Module)
                price_pj = self._price_pj[name] / neuron.spike_value
                neuron.register_forward_hook(partial(self._add, name, price_pj))

    def _add(self, name: str, price_pj: float, _neuron: nn.Module, _x: object, y: Tensor) -> None:
        if torch.is_grad_enabled():
            wide = torch.promote_types(y.dtype, torch.float32)  # a sum may pass float16's 65504
            self._spent[name] = y.sum(dtype=wide) * (price_pj / y.shape[1])

    def share(self) -> Tensor:
        """Energy per image of the last forward with gradients, over the ANN-equivalent's."""
        spent, self._spent = self._spent, {}
        return torch.stack([*spent.values()]).sum() / self.ann_pj
