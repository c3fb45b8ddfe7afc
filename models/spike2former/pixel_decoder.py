"""The pixel decoder: deformable attention at stride 16, then a pyramid up to stride 2.

Source: Lei et al., Spike2Former, AAAI 2025; Wang et al., DCNv3 (InternImage), CVPR 2023.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from models.blocks import BatchNorm, NeuronFactory, per_step
from models.spike2former.blocks import ESC, MLP, Axes, Run, Synapse, at_once, transposed_back

POINTS = 9  # of the 3x3 grid that each group samples around a px
FIRST_SCALE = 1e-6  # of the encoder's branches, before training


def sample(
    values: Float[Tensor, "N C H W"],
    offset: Float[Tensor, "N G*18 H W"],
    weight: Float[Tensor, "N G*9 H W"],
) -> Float[Tensor, "N C H W"]:
    """Each px a weighted sum of 9 values of its group, read bilinearly, zeros outside.

    Point k of group g stands at the px's own place, plus that of the grid (-1..1, x outer, y
    inner), plus its offset: channels (g, k, (x, y)) of `offset` in px, (g, k) of `weight`.
    """
    N, C, H, W = values.shape
    G = weight.shape[1] // POINTS
    reach = torch.arange(-1, 2, device=values.device, dtype=values.dtype)
    grid = torch.cartesian_prod(reach, reach)[None, None, :, :, None, None]
    y, x = (torch.arange(n, device=values.device, dtype=values.dtype) for n in (H, W))
    own = torch.stack((x.expand(H, W), y[:, None].expand(H, W)))
    place = own + grid + offset.view(N, G, POINTS, 2, H, W)  # px
    size = values.new_tensor([W, H]).view(2, 1, 1)
    place = (2 * place + 1) / size - 1  # as grid_sample has it: -1 and 1 are the map's borders
    read = F.grid_sample(
        values.view(N * G, C // G, H, W),
        place.permute(0, 1, 2, 4, 5, 3).reshape(N * G, POINTS * H, W, 2),
        align_corners=False,
    )
    read = read.view(N, G, C // G, POINTS, H, W) * weight.view(N, G, 1, POINTS, H, W)
    return read.sum(3).reshape(N, C, H, W)


class DeformableAttention(nn.Module):
    """Spike-driven deformable attention: values and offsets are real, weights are spikes.

    Offsets and weights begin at zero: the branch is silent until a batch norm's bias grows.
    """

    folds = (("offset", "offset_bn"), ("weight", "weight_bn"))

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
        self.weight_neuron = neuron()
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
        sampled = sample(*(x.flatten(0, 1).contiguous() for x in maps))
        return self.project(sampled.unflatten(0, x.shape[:2]))


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
        scales = (torch.full((channels,), FIRST_SCALE) for _ in range(3))
        self.mixer_scale, self.attention_scale, self.mlp_scale = map(nn.Parameter, scales)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer_scale[:, None, None] * self.mixer(x)
        x = x + self.attention_scale[:, None, None] * self.attention(x)
        return x + self.mlp_scale[:, None, None] * self.mlp(x)


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


def enlarged(x: Tensor, size_hw: torch.Size | tuple[int, int]) -> Tensor:
    """Bilinear, in every step of x [T, B, C, H, W] or level of [L, B, Q, H, W]."""
    larger = F.interpolate(x.flatten(0, 1), size_hw, mode="bilinear", align_corners=False)
    return larger.unflatten(0, x.shape[:2])
