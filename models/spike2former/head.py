"""The mask head: what each query stands for, a class and a mask; and the scores they mean.

Source: Lei et al., Spike2Former, AAAI 2025.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.blocks import BatchNorm, NeuronFactory, per_step
from models.spike2former.blocks import enlarged, fold_scale, scaled, unit
from models.spike2former.products import SpikeMatmul


class Amplified(nn.Module):
    """A neuron whose S / D are multiplied by `gain`, until weights that read it take that over."""

    def __init__(self, neuron: NeuronFactory, gain: float) -> None:
        super().__init__()
        self.neuron = neuron()
        self.gain: float | None = gain

    @property
    def factor(self) -> float:
        return 1.0 if self.gain is None else self.gain * unit(self.neuron)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.neuron(x)
        return spikes if self.gain is None else self.factor * spikes

    def hand_over(self, *readers: nn.Conv2d) -> None:
        """Let the weights multiply: they now read the neuron's own output."""
        for conv in readers:
            conv.weight.mul_(self.factor)
        self.gain = None


class MaskEmbedding(nn.Module):
    """Three 1x1 convolutions of queries [T, B, E, Q, 1]; the first reads amplified spikes."""

    reads = (("conv2", "neuron2.neuron"), ("conv3", "neuron3.neuron"))

    def __init__(self, neuron: NeuronFactory, channels: int, gain: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.neuron2 = Amplified(neuron, gain)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.neuron3 = Amplified(neuron, gain)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        nn.init.trunc_normal_(self.conv3.weight, std=0.02)

    def forward(self, spikes: Tensor) -> Tensor:
        x = self.neuron2(per_step(spikes, self.conv1))
        return per_step(self.neuron3(per_step(x, self.conv2)), self.conv3)

    def fold(self) -> None:
        self.neuron2.hand_over(self.conv2)
        self.neuron3.hand_over(self.conv3)


class MaskHead(nn.Module):
    """Queries [T, B, E, Q, 1] of L levels and the mask feature [T, B, E, h, w] -> two maps.

    Class logits [L, B, Q, nc + 1], the last for "no object", and mask logits [L, B, Q, h, w], both
    the mean over the T steps. `gain`: factor on every neuron's S / D, 4 as published, where D = 4
    it undoes the division by D. The number of queries is in the weights.
    """

    folds = (("shortcut", "shortcut_bn"),)
    reads = tuple((conv, "neuron.neuron") for conv in ("classify", "shortcut", "embed.conv1"))
    multiplies = ("mask_neuron",)

    def __init__(
        self, neuron: NeuronFactory, channels: int, queries: int, num_classes: int, gain: float
    ) -> None:
        super().__init__()
        self.gain = gain
        self.neuron = Amplified(neuron, gain)
        self.classify = nn.Conv2d(channels, num_classes + 1, 1)
        nn.init.trunc_normal_(self.classify.weight, std=0.02)
        self.shortcut: nn.Conv2d = nn.Conv2d(queries, queries, 1, bias=False)  # their channels
        self.shortcut_bn = BatchNorm(queries)
        self.shortcut_scale: Tensor | None = nn.Parameter(torch.ones(1))
        self.embed = MaskEmbedding(neuron, channels, gain)
        self.mask_neuron = neuron()
        self.paint = SpikeMatmul("left")

    def forward(self, queries: Sequence[Tensor], feature: Tensor) -> list[Tensor]:
        L, (T, B, _E, H, W) = len(queries), feature.shape
        z = self.neuron(torch.cat([*queries], dim=1).sigmoid())
        classes = per_step(z, self.classify).mean(0)[..., 0].transpose(1, 2)
        mixed = per_step(z.transpose(2, 3), self.shortcut, self.shortcut_bn).transpose(2, 3)
        e = self.mask_neuron(self.embed(z) + scaled(mixed, self.shortcut_scale))
        e = e[..., 0].unflatten(1, (L, B)).permute(1, 2, 4, 0, 3).flatten(3)  # [L, B, Q, T * E]
        masks = self.paint(e, feature.transpose(0, 1).flatten(3).flatten(1, 2))
        masks = masks * (self.gain * unit(self.mask_neuron) / T)
        return [classes.unflatten(0, (L, B)), masks.unflatten(-1, (H, W))]

    def fold(self) -> None:
        """The shortcut's factor and the spikes' gain go into the weights."""
        if self.shortcut_scale is not None:
            fold_scale(self.shortcut, self.shortcut_scale.expand(len(self.shortcut.weight)))
        self.shortcut_scale = None
        self.neuron.hand_over(self.classify, self.shortcut, self.embed.conv1)


def decode_masks(
    maps: list[Tensor], size_hw: tuple[int, int] | torch.Size
) -> Float[Tensor, "B nc H W"]:
    """Scores per class and px of the last level: the queries' class odds times their masks."""
    classes, masks = maps[0][-1], maps[1][-1]
    odds = classes.softmax(-1)[..., :-1]
    return torch.einsum("bqc,bqhw->bchw", odds, enlarged(masks[None], size_hw)[0].sigmoid())
