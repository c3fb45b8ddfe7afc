"""SpikeYOLO, read from top to bottom: backbone, neck, head.

Source: Luo et al., "Integer-Valued Training and Spike-Driven Inference Spiking Neural Network
for High-performance and Energy-efficient Object Detection", ECCV 2024, arXiv:2407.20708.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from spikingjelly.activation_based import functional
from torch import Tensor, nn

from models.blocks import SPPF, AllConvBlock, ConvBlock, Downsample, Neuron, SpikeConv, per_step
from models.head import Detect
from models.neuron import ILIFNode
from models.recompute import recomputed

MAX_STRIDE = 32
ACTIVATIONS = ("ilif", "lif", "qann", "relu")

#: What a published layout changes, unless the caller says otherwise.
VARIANTS: dict[str, dict[str, Any]] = {
    "coco": {},
    "gen1": {
        "num_classes": 2,
        "in_channels": 2,
        "time_steps": 4,
        "decay": 0.5,
        "input_scale": 0.5,
    },
}


@dataclass(frozen=True)
class SpikeYOLOConfig:
    """Everything that shapes the network; the defaults are the published COCO network.

    Raises ValueError for an impossible setting.

    Args:
        depth: Share of the full number of blocks per stage.
        width: Share of the full number of channels.
        wide_p5: Expansion 2 instead of 1 in the last block, as sizes m and l have it.
        num_classes: Classes the head tells apart.
        in_channels: Channels of one time step (2: OFF and ON counts).
        time_steps: T, the steps of one forward; the ANN twin stacks them as channels.
        max_spikes: D, the largest spike count of one neuron in one step.
        decay: Share of the membrane kept from one step to the next.
        input_scale: Factor on a neuron's input.
        detach_reset: Stop the gradient through the soft reset.
        activation: "ilif", the integer neuron; "lif", binary, with every step shown D times;
            "qann", its D + 1 levels without time or state; "relu", the ANN twin.
        backend: Which code runs the neuron: "auto", "cupy", "spikingjelly" or "torch".
        checkpoint_stages: Train in less memory and more time: blocks run again for their gradients.
        variant: "coco" or "gen1", the published layout; gen1 has one block in layer 8, not three.
    """

    depth: float = 0.33
    width: float = 0.5
    wide_p5: bool = False
    num_classes: int = 80
    in_channels: int = 3
    time_steps: int = 1
    max_spikes: int = 4
    decay: float = 0.25
    input_scale: float = 1.0
    detach_reset: bool = True
    activation: str = "ilif"
    backend: str = "auto"
    checkpoint_stages: bool = False
    variant: str = "coco"

    def __post_init__(self) -> None:
        for name in ("num_classes", "in_channels", "time_steps", "max_spikes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name, known in (("activation", ACTIVATIONS), ("variant", (*VARIANTS,))):
            if getattr(self, name) not in known:
                found = f"{name} is {getattr(self, name)!r}"
                raise ValueError(f"{found}, expected one of {', '.join(known)}")

    @property
    def is_spiking(self) -> bool:
        """Does it run in time, on spikes?"""
        return self.activation in ("ilif", "lif")


SIZES: dict[str, SpikeYOLOConfig] = {
    "p": SpikeYOLOConfig(depth=0.33, width=0.125),
    "n": SpikeYOLOConfig(depth=0.33, width=0.375),
    "s": SpikeYOLOConfig(depth=0.33, width=0.5),
    "m": SpikeYOLOConfig(depth=0.5, width=0.625, wide_p5=True),
    "l": SpikeYOLOConfig(depth=0.5, width=0.75, wide_p5=True),
}


def resolve_config(size: str, **overrides: Any) -> SpikeYOLOConfig:
    """Size, then variant, then the overrides that are not None -> the whole configuration."""
    if size not in SIZES:
        raise ValueError(f"size is {size!r}, expected one of {', '.join(SIZES)}")
    given = {key: value for key, value in overrides.items() if value is not None}
    unknown = sorted(set(given) - set(SpikeYOLOConfig.__dataclass_fields__))
    if unknown:
        known = ", ".join(SpikeYOLOConfig.__dataclass_fields__)
        raise ValueError(f"unknown model setting {unknown[0]!r}, expected one of {known}")
    published = VARIANTS.get(given.get("variant", "coco"), {})
    return replace(SIZES[size], **{**published, **given})


def neuron_factory(config: SpikeYOLOConfig) -> Neuron:
    if config.activation == "relu":
        return nn.ReLU
    return partial(
        ILIFNode,  # in one pass from rest, as "qann" runs it, no more than round(clip(x, 0, D))
        1 if config.activation == "lif" else config.max_spikes,
        config.decay,
        1.0 if config.activation == "qann" else config.input_scale,
        config.detach_reset,
        config.backend,
    )


class SpikeYOLO(nn.Module):
    """x [T, B, C, H, W], H and W multiples of 32 -> raw maps [B, 64 + nc, H/s, W/s], s = 8, 16, 32.

    The same in training and evaluation. Neurons start from rest at every call, unless
    `carry_state` is set, for streams. The ANN twins ("relu", "qann") see their T steps once, as
    T * C channels. Raises ValueError for an input of another shape.
    """

    def __init__(self, config: SpikeYOLOConfig) -> None:
        super().__init__()
        self.config = config
        neuron = neuron_factory(config)
        c1, c2, c3, c4 = (round(c * config.width) for c in (128, 256, 512, 1024))
        in_channels = config.in_channels * (1 if config.is_spiking else config.time_steps)
        last_blocks = 3 if config.variant == "coco" else 1

        def repeat(block: type[nn.Module], channels: int, ratio: int, times: int) -> nn.Sequential:
            count = max(round(times * config.depth), 1)
            return nn.Sequential(*(block(neuron, channels, ratio) for _ in range(count)))

        # Backbone: strides 4, 8, 16, 32
        self.down1 = Downsample(neuron, in_channels, c1, stem=True)
        self.stage1 = repeat(AllConvBlock, c1, ratio=4, times=3)
        self.down2 = Downsample(neuron, c1, c2)
        self.stage2 = repeat(AllConvBlock, c2, ratio=4, times=6)
        self.down3 = Downsample(neuron, c2, c3)
        self.stage3 = repeat(ConvBlock, c3, ratio=3, times=9)
        self.down4 = Downsample(neuron, c3, c4)
        self.stage4 = repeat(ConvBlock, c4, ratio=2, times=last_blocks)
        self.sppf = SPPF(neuron, c4, c4)

        # Neck, downwards: coarse maps lend context to fine ones
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.reduce5 = SpikeConv(neuron, c4, c3, 1)
        self.top4 = ConvBlock(neuron, c3, ratio=3)
        self.reduce4 = SpikeConv(neuron, c3 + c3, c2, 1)
        self.top3 = AllConvBlock(neuron, c2, ratio=4)
        self.reduce3 = SpikeConv(neuron, c2 + c2, c2, 1)
        self.out3 = AllConvBlock(neuron, c2, ratio=4)

        # Neck, upwards: fine maps lend place to coarse ones
        self.down_to4 = SpikeConv(neuron, c2, c2, 3, stride=2)
        self.out4 = ConvBlock(neuron, c2 + c2, ratio=3)
        self.down_to5 = SpikeConv(neuron, c2 + c2, c3, 3, stride=2)
        self.out5 = ConvBlock(neuron, c3 + c3, ratio=2 if config.wide_p5 else 1)

        self.head = Detect(neuron, (c2, c2 + c2, c3 + c3), config.num_classes)
        self.carry_state = False

    @property
    def carry_state(self) -> bool:
        """Do neurons keep their membranes from one call to the next, as streams want it?"""
        return self._carry_state

    @carry_state.setter
    def carry_state(self, carry: bool) -> None:
        self._carry_state = carry
        for module in self.modules():
            if isinstance(module, ILIFNode):
                module.keep_state = carry

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self._checked(x)
        if not self.carry_state:
            functional.reset_net(self)
        x = self.down1(x)
        if self.config.activation == "lif":
            x = x.repeat_interleave(self.config.max_spikes, dim=0)  # the stem runs once per step
        x = self._run(self.stage1, x)
        p3 = self._run(self.stage2, self.down2(x))
        p4 = self._run(self.stage3, self.down3(p3))
        p5 = self.sppf(self._run(self.stage4, self.down4(p4)))

        lateral5 = self.reduce5(p5)
        p4 = torch.cat([self._run(self.top4, self._up(lateral5)), p4], dim=2)
        lateral4 = self.reduce4(p4)
        p3 = torch.cat([self._run(self.top3, self._up(lateral4)), p3], dim=2)
        p3 = self._run(self.out3, self.reduce3(p3))

        p4 = self._run(self.out4, torch.cat([self.down_to4(p3), lateral4], dim=2))
        p5 = self._run(self.out5, torch.cat([self.down_to5(p4), lateral5], dim=2))
        return self.head([p3, p4, p5])

    def _run(self, stage: nn.Module, x: Tensor) -> Tensor:
        """stage(x); with `checkpoint_stages` block by block, keeping only what lies between."""
        if not self.config.checkpoint_stages or self.carry_state:
            return stage(x)
        for block in [*stage] if isinstance(stage, nn.Sequential) else [stage]:
            x = recomputed(block, x)
        return x

    def _up(self, x: Tensor) -> Tensor:
        return per_step(self.upsample, x)

    def _checked(self, x: Tensor) -> Tensor:
        config = self.config
        if x.dim() != 5 or x.shape[2] != config.in_channels:
            raise ValueError(
                f"input has shape {tuple(x.shape)}, expected [T, B, {config.in_channels}, H, W]"
            )
        T, _B, _C, H, W = x.shape
        if H % MAX_STRIDE or W % MAX_STRIDE:
            raise ValueError(f"input is {H}x{W} px, expected multiples of {MAX_STRIDE}")
        if config.is_spiking:
            return x
        if config.time_steps != T:
            raise ValueError(f"input has T={T}, the ANN twin was built for T={config.time_steps}")
        return x.transpose(0, 1).flatten(1, 2).unsqueeze(0)
