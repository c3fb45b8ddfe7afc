"""The pixel decoder: deformable attention at stride 16, then a pyramid up to stride 2.

Source: Lei et al., Spike2Former, AAAI 2025; Wang et al., DCNv3 (InternImage), CVPR 2023.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.blocks import BatchNorm, NeuronFactory, per_step
from models.spike2former.blocks import (
    ESC,
    MLP,
    Axes,
    Run,
    Synapse,
    at_once,
    enlarged,
    factor_neuron,
    fold_scale,
    frozen,
    scaled,
    transposed_back,
    unit,
)
from models.spike2former.products import Sampling
from models.spike2former.sampling import POINTS

FIRST_SCALE = 1e-6  # of the encoder's branches, before training


class DeformableAttention(nn.Module):
    """Spike-driven deformable attention: values and offsets are real, weights are spikes.

    Offsets and weights begin at zero: the branch is silent until a batch norm's bias grows.
    """

    folds = (("offset", "offset_bn"), ("weight", "weight_bn"))
    reads = (("offset", "neuron"), ("weight", "neuron"))
    multiplies = ("weight_neuron",)

    def __init__(
        self, neuron: NeuronFactory, channels: int, groups: int, axes: Axes = "aligned"
    ) -> None:
        super().__init__()
        if channels % groups:
            raise ValueError(f"groups is {groups}, expected a divisor of {channels} channels")
        self.axes = axes
        self.value = ESC(neuron, channels, 5)
        self.context = Synapse(neuron, channels, channels, 5, groups=channels)
        self.neuron = neuron()
        self.offset = nn.Conv2d(channels, groups * POINTS * 2, 1)
        self.offset_bn = BatchNorm(groups * POINTS * 2)
        self.weight = nn.Conv2d(channels, groups * POINTS, 1)
        self.weight_bn = BatchNorm(groups * POINTS)
        self.weight_neuron = factor_neuron(neuron)
        self.sampling = Sampling()
        self.project = ESC(neuron, channels, 5)
        for conv in (self.offset, self.weight):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.get_parameter("bias"))

    def forward(self, x: Float[Tensor, "T B C H W"]) -> Float[Tensor, "T B C H W"]:
        spikes = self.neuron(self.context(x))
        offset = per_step(spikes, self.offset, self.offset_bn)
        weight = self.weight_neuron(per_step(spikes, self.weight, self.weight_bn))
        if self.axes == "published":
            offset, weight = transposed_back(offset), transposed_back(weight)
        maps = (self.value(x), offset, weight)
        sampled = self.sampling(*(x.flatten(0, 1).contiguous() for x in maps))
        return self.project(unit(self.weight_neuron) * sampled.unflatten(0, x.shape[:2]))


class EncoderMLP(MLP):
    """An MLP whose result is read along other axes in the published network."""

    def __init__(
        self, neuron: NeuronFactory, channels: int, hidden: int, axes: Axes = "aligned"
    ) -> None:
        super().__init__(neuron, channels, hidden)
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return transposed_back(y) if self.axes == "published" else y


class EncoderLayer(nn.Module):
    """x + ESC, x + deformable attention, x + MLP, each scaled per channel."""

    def __init__(
        self, neuron: NeuronFactory, channels: int, hidden: int, groups: int, axes: Axes = "aligned"
    ) -> None:
        super().__init__()
        self.mixer = ESC(neuron, channels, 3)
        self.attention = DeformableAttention(neuron, channels, groups, axes)
        self.mlp = EncoderMLP(neuron, channels, hidden, axes)
        self.axes = axes
        scales = (torch.full((channels,), FIRST_SCALE) for _ in range(3))
        self.mixer_scale: Tensor | None
        self.attention_scale: Tensor | None
        self.mlp_scale: Tensor | None
        self.mixer_scale, self.attention_scale, self.mlp_scale = map(nn.Parameter, scales)

    def forward(self, x: Tensor) -> Tensor:
        x = x + scaled(self.mixer(x), self.mixer_scale)
        x = x + scaled(self.attention(x), self.attention_scale)
        return x + scaled(self.mlp(x), self.mlp_scale)

    def fold(self) -> None:
        """Scales go into the convolutions before them; not where the MLP's axes are mixed up."""
        fold_scale(self.mixer.project.conv, self.mixer_scale)
        fold_scale(self.attention.project.project.conv, self.attention_scale)
        self.mixer_scale = self.attention_scale = None
        if self.axes == "aligned":
            fold_scale(self.mlp.project.conv, self.mlp_scale)
            self.mlp_scale = None
        else:
            frozen(self, "mlp_scale")


class PixelDecoder(nn.Module):
    """Maps at strides 2, 4, 8, 16 -> mask feature [T, B, E, H/2, W/2] and maps at 16, 8, 4.

    The latter [T, B, E, H/s, W/s] are what the decoder's queries read. All are real-valued.
    """

    def __init__(
        self,
        neuron: NeuronFactory,
        in_channels: Sequence[int],
        channels: int,
        layers: int,
        hidden: int,
        groups: int,
        axes: Axes = "aligned",
    ) -> None:
        super().__init__()
        *fine, coarse = in_channels
        self.enter = Synapse(neuron, coarse, channels, bias=True)
        self.encoder = nn.Sequential(
            *(EncoderLayer(neuron, channels, hidden, groups, axes) for _ in range(layers))
        )
        self.leave = Synapse(neuron, channels, channels, bias=True)
        self.laterals = nn.ModuleList(Synapse(neuron, c, channels, bias=True) for c in fine)
        self.smooth = nn.ModuleList(
            Synapse(neuron, channels, channels, 3, groups=channels) for _ in fine
        )
        self.mask_feature = Synapse(neuron, channels, channels, bias=True, norm=False)

    def forward(self, maps: Sequence[Tensor], run: Run = at_once) -> tuple[Tensor, list[Tensor]]:
        y = self.leave(run(self.encoder, self.enter(maps[-1])))
        out = [y]
        fine = list(zip(maps[:-1], self.laterals, self.smooth, strict=True))
        for x, lateral, smooth in reversed(fine):
            y = smooth(lateral(x) + enlarged(y, x.shape[-2:]))
            out.append(y)
        return self.mask_feature(y), out[:3]
