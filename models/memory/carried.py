"""What the neurons of a network carry from one window to the next: cut, clear, keep, put back."""

from collections.abc import Iterator, Mapping

import torch
from spikingjelly.activation_based import base
from torch import Tensor, nn

from models.detector import DetectorConfig, DetectorNetwork

UNUSED_MEMORY = "has a memory, of which nothing is used without --carry-state"


def has_memory(config: DetectorConfig) -> bool:
    """Whether a network keeps for later windows what it heard, beside what its neurons carry."""
    return getattr(config, "memory", "none") in ("spiking", "gru")


def refuse_stateless(network: DetectorNetwork, asked: str) -> None:
    """ValueError for a network without state, of which something was asked."""
    if not network.config.has_state:
        found = f"{asked} was asked of activation {network.config.activation!r}"
        raise ValueError(f"{found}, expected a spiking one, as ilif, or --model.memory gru")


def _memories(network: nn.Module) -> Iterator[tuple[str, base.MemoryModule, str, Tensor]]:
    """Name, neuron, name there and value of all that is not at rest."""
    for path, module in network.named_modules():
        if isinstance(module, base.MemoryModule):
            for name, value in [*module.named_memories()]:
                if isinstance(value, Tensor):
                    yield f"{path}.{name}", module, name, value


def begin_clips(network: nn.Module, from_rest: Tensor) -> None:
    """Cut the gradient to what was before; rows (bool [B]) of another recording start from rest.

    Raises ValueError for a state of another batch size.
    """
    for path, module, name, value in _memories(network):
        if len(value) != len(from_rest):
            found = f"{path}: the carried state is of {len(value)} recordings"
            raise ValueError(f"{found}, the batch of {len(from_rest)}: expected as many")
        rest = from_rest.to(value.device).view(-1, *[1] * (value.dim() - 1))
        setattr(module, name, value.detach().masked_fill(rest, 0))


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy on the CPU, by name; empty at rest."""
    return {path: value.detach().to("cpu", copy=True) for path, _, _, value in _memories(network)}


def put_back(network: nn.Module, state: Mapping[str, Tensor], device: torch.device) -> None:
    """Let neurons go on from `state_of`. Raises ValueError for one of another network."""
    modules = dict(network.named_modules())
    for path, value in state.items():
        owner, _, name = path.rpartition(".")
        if not isinstance(module := modules.get(owner), base.MemoryModule):
            raise ValueError(f"the carried state has {path!r}, which the network has not")
        setattr(module, name, value.to(device))
