"""The mask head: what each query stands for, a class and a mask; and the scores they mean.

Source: Lei et al., Spike2Former, AAAI 2025.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.blocks import BatchNorm, NeuronFactory, per_step
from models.spike2former.pixel_decoder import enlarged


class MaskEmbedding(nn.Module):
    """Three 1x1 convolutions of queries [T, B, E, Q, 1]; the first reads spikes times `gain`."""

    def __init__(self, neuron: NeuronFactory, channels: int, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.neuron2 = neuron()
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.neuron3 = neuron()
        self.conv3 = nn.Conv2d(channels, channels, 1)
        nn.init.trunc_normal_(self.conv3.weight, std=0.02)

    def forward(self, spikes: Tensor) -> Tensor:
        x = self.gain * self.neuron2(per_step(spikes, self.conv1))
        return per_step(self.gain * self.neuron3(per_step(x, self.conv2)), self.conv3)


class MaskHead(nn.Module):
    """Queries [T, B, E, Q, 1] of L levels and the mask feature [T, B, E, h, w] -> two maps.

    Class logits [L, B, Q, nc + 1], the last for "no object", and mask logits [L, B, Q, h, w], both
    the mean over the T steps. `gain`: factor on every neuron's output, 4 as published, where D = 4
    it undoes the division by D. The number of queries is in the weights.
    """

    def __init__(
        self, neuron: NeuronFactory, channels: int, queries: int, num_classes: int, gain: float
    ) -> None:
        super().__init__()
        self.gain = gain
        self.neuron = neuron()
        self.classify = nn.Conv2d(channels, num_classes + 1, 1)
        nn.init.trunc_normal_(self.classify.weight, std=0.02)
        self.embed = MaskEmbedding(neuron, channels, gain)
        self.shortcut = nn.Conv2d(queries, queries, 1, bias=False)  # queries are its channels
        self.shortcut_bn = BatchNorm(queries)
        self.shortcut_scale = nn.Parameter(torch.ones(1))
        self.mask_neuron = neuron()

    def forward(self, queries: Sequence[Tensor], feature: Tensor) -> list[Tensor]:
        L, (T, B) = len(queries), feature.shape[:2]
        z = self.gain * self.neuron(torch.cat([*queries], dim=1).sigmoid())
        classes = per_step(z, self.classify).mean(0)[..., 0].transpose(1, 2)
        mixed = per_step(z.transpose(2, 3), self.shortcut, self.shortcut_bn).transpose(2, 3)
        embedding = self.embed(z) + self.shortcut_scale * mixed
        e = (self.gain * self.mask_neuron(embedding))[..., 0].unflatten(1, (L, B))
        masks = torch.einsum("tlbeq,tbehw->lbqhw", e, feature) / T
        return [classes.unflatten(0, (L, B)), masks]


def decode_masks(
    maps: list[Tensor], size_hw: tuple[int, int] | torch.Size
) -> Float[Tensor, "B nc H W"]:
    """Scores per class and px of the last level: the queries' class odds times their masks."""
    classes, masks = maps[0][-1], maps[1][-1]
    odds = classes.softmax(-1)[..., :-1]
    return torch.einsum("bqc,bqhw->bchw", odds, enlarged(masks[None], size_hw)[0].sigmoid())
