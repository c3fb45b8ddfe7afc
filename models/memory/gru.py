"""The memory of an ANN twin: a convolutional GRU, of equal width to the spiking one."""

from typing import Any

import torch
from jaxtyping import Float
from spikingjelly.activation_based import base
from torch import Tensor, nn

from models.memory.heard import Heard
from models.neuron import refuse_other_shape
from models.operations import Work


class Gate(nn.Module):
    """gate * x, one multiplication a value."""

    def forward(self, gate: Tensor, x: Tensor) -> Tensor:
        return gate * x

    def work(self, _inputs: tuple[Tensor, ...], output: Tensor) -> list[Work]:
        return [Work("", output.numel(), None, output.numel())]


class ConvGRU(base.MemoryModule):
    """x [T, B, C, H, W] and events [T', B, _, s*H, s*W] -> x, from memory where no events come.

    Where they come, held = x. Elsewhere it stays; both, and h, [B, C, H, W], are carried.
    z, r = sigmoid(conv([x, h]));  h += z (tanh(conv([x, r h])) - h);  y = held + conv1x1(h)
    The read-out begins at 0. ValueError for a state of another batch or resolution.
    Source: Ballas et al., ICLR 2016, arXiv:1511.06432.
    """

    h: Tensor | None
    held: Tensor | None
    is_spiking = False

    def __init__(self, channels: int, settings: Any, stride: int) -> None:
        super().__init__()
        kernel, pad = settings.memory_kernel, settings.memory_kernel // 2
        self.heard = Heard(stride, settings.memory_events)
        self.gates = nn.Conv2d(2 * channels, 2 * channels, kernel, padding=pad)
        self.candidate = nn.Conv2d(2 * channels, channels, kernel, padding=pad)
        self.forget, self.update = Gate(), Gate()
        self.readout = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.zeros_(self.readout.weight)
        self.keep_state = True
        self.step_mode = "m"
        self.register_memory("h", None)
        self.register_memory("held", None)

    @property
    def carrier(self) -> nn.Module:
        """Whose state is carried from window to window."""
        return self

    def multi_step_forward(
        self, x: Float[Tensor, "T B C H W"], events: Float[Tensor, "_ B _ _ _"]
    ) -> Float[Tensor, "T B C H W"]:
        wide = torch.promote_types(x.dtype, torch.float32)  # as membranes are
        refuse_other_shape(self.h, x.shape[1:])
        h = torch.zeros_like(x[0], dtype=wide) if self.h is None else self.h
        heard = self.heard(events, self.held)
        held = torch.zeros_like(x[0]) if self.held is None else self.held
        outputs = []
        for now in x:
            seen = torch.cat([now, h.to(x.dtype)], dim=1)
            z, r = torch.sigmoid(self.gates(seen)).chunk(2, dim=1)
            recalled = torch.cat([now, self.forget(r, h).to(x.dtype)], dim=1)
            h = h + self.update(z, torch.tanh(self.candidate(recalled)) - h)
            held = torch.where(heard, now, held)
            outputs.append(held + self.readout(h.to(x.dtype)))
        self.h, self.held = (h, held) if self.keep_state else (None, None)
        return torch.stack(outputs)
