"""The memory of an ANN twin: a convolutional GRU, of equal width to the spiking one."""

import torch
from jaxtyping import Float
from spikingjelly.activation_based import base
from torch import Tensor, nn

from models.blocks import batch_norm
from models.operations import Work


class Gate(nn.Module):
    """gate * x, one multiplication a value."""

    def forward(self, gate: Tensor, x: Tensor) -> Tensor:
        return gate * x

    def work(self, _inputs: tuple[Tensor, ...], output: Tensor) -> list[Work]:
        return [Work("", output.numel(), None, output.numel())]


class ConvGRU(base.MemoryModule):
    """x [T, B, C, H, W] -> x + read-out of its state h [B, C, H, W], carried as a membrane is.

    z, r = sigmoid(conv([x, h]));  h += z (tanh(conv([x, r h])) - h);  x + norm(conv1x1(h))
    It begins as the identity: the norm of the read-out is 0. ValueError for a state of another
    batch or resolution. Source: Ballas et al., ICLR 2016, arXiv:1511.06432.
    """

    h: Tensor | None
    folds = (("readout", "bn"),)
    is_spiking = False

    def __init__(self, channels: int, kernel: int = 1) -> None:
        super().__init__()
        pad = kernel // 2
        self.gates = nn.Conv2d(2 * channels, 2 * channels, kernel, padding=pad)
        self.candidate = nn.Conv2d(2 * channels, channels, kernel, padding=pad)
        self.forget, self.update = Gate(), Gate()
        self.readout = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn: nn.Module = batch_norm(channels)
        nn.init.zeros_(self.bn.get_parameter("weight"))
        self.keep_state = True
        self.step_mode = "m"
        self.register_memory("h", None)

    @property
    def carrier(self) -> nn.Module:
        """Whose state is carried from window to window."""
        return self

    def multi_step_forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B C H W"]:
        wide = torch.promote_types(x.dtype, torch.float32)  # as membranes are
        h = torch.zeros_like(x[0], dtype=wide) if self.h is None else self.h
        if h.shape != x.shape[1:]:
            raise ValueError(
                f"the carried state has shape {tuple(h.shape)}, the input needs "
                f"{tuple(x.shape[1:])}: call reset() before another batch size or resolution"
            )
        outputs = []
        for now in x:
            seen = torch.cat([now, h.to(x.dtype)], dim=1)
            z, r = torch.sigmoid(self.gates(seen)).chunk(2, dim=1)
            heard = torch.cat([now, self.forget(r, h).to(x.dtype)], dim=1)
            h = h + self.update(z, torch.tanh(self.candidate(heard)) - h)
            outputs.append(self.readout(h.to(x.dtype)))
        self.h = h if self.keep_state else None
        return x + self.bn(torch.cat(outputs)).unflatten(0, x.shape[:2])
