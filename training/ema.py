"""Exponential moving average of the weights, the copy that is evaluated and kept."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Follows a model's parameters and buffers in their own precision.

    The decay of update n is decay * (1 - exp(-n / tau)), so that early weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float, tau: float) -> None:
        self.decay, self.tau = decay, tau
        self.updates = 0
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        share = 1 - self.decay * (1 - math.exp(-self.updates / self.tau))
        state = model.state_dict()
        floats = [name for name, value in state.items() if value.is_floating_point()]
        averages, current = [self.weights[n] for n in floats], [state[n] for n in floats]
        torch._foreach_lerp_(averages, current, share)
        for name in state.keys() - set(floats):
            self.weights[name].copy_(state[name])

    def load(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Continue from the `weights` that so many updates led to."""
        self.updates = updates
        for name, value in self.weights.items():
            value.copy_(weights[name])
