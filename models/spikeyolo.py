"""SpikeYOLO, read from top to bottom: backbone, neck, head.

Source: Luo et al., "Integer-Valued Training and Spike-Driven Inference Spiking Neural Network
for High-performance and Energy-efficient Object Detection", ECCV 2024, arXiv:2407.20708.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.blocks import SPPF, AllConvBlock, ConvBlock, Downsample, SpikeConv
from models.decode import STRIDES, decode
from models.detector import (
    DetectorConfig,
    DetectorNetwork,
    Family,
    Upsample,
    published_but,
)
from models.head import Detect
from models.loss import DetectionLoss, LossGains
from models.memory import Memory, leaky_factory
from models.memory.gru import ConvGRU
from models.neuron import neuron_factory

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
class SpikeYOLOConfig(DetectorConfig):
    """Everything that shapes the network; where no name says more, the published COCO one.

    Settings of every detector: see `DetectorConfig`. In variant gen1, layer 8 has one block, not
    three. Raises ValueError for an impossible setting.

    Args:
        depth: Share of the full number of blocks per stage.
        width: Share of the full number of channels.
        wide_p5: Expansion 2 instead of 1 in the last block, as sizes m and l have it.
        activation: "ilif", the integer neuron; "nilif", its counts divided by D; "lif-soft",
            binary, with every step shown D times; "qann", the levels of "ilif" without time or
            state; "relu", the ANN twin.
        memory: "spiking", neurons before the head that go on firing where no events come; "gru",
            the same of the ANN twin, with a ConvGRU; "leaky", every neuron's decay is learnt. For
            networks whose state is carried: docs/memory.md.
        memory_kernel: Side of the recurrent convolutions of "spiking" and "gru", 1 or 3.
        memory_events: Mean events a px and window above which a memory hears what comes.
    """

    depth: float = 0.33
    width: float = 0.5
    wide_p5: bool = False

    activation: Literal["ilif", "nilif", "lif-soft", "qann", "relu"] = "ilif"
    memory: Literal["none", "leaky", "spiking", "gru"] = "none"
    memory_kernel: int = 1
    memory_events: float = 4.0

    family: ClassVar[str] = "spikeyolo"
    by_name: ClassVar[tuple[str, ...]] = ("depth", "width", "wide_p5")
    renamed: ClassVar[Mapping[str, str]] = {"lif": "lif-soft"}

    def __post_init__(self) -> None:
        super().__post_init__()
        served = {"leaky": ("ilif",), "spiking": ("ilif", "nilif"), "gru": ("relu",)}
        if self.activation not in served.get(self.memory, (self.activation,)):
            found = f"memory is {self.memory!r} with activation {self.activation!r}"
            raise ValueError(f"{found}, expected {' or '.join(served[self.memory])}")
        if self.memory_kernel not in (1, 3):
            raise ValueError(f"memory_kernel is {self.memory_kernel}, expected 1 or 3")
        if not 0 <= self.memory_events < math.inf:
            raise ValueError(f"memory_events is {self.memory_events}, expected 0 or more")

    @property
    def has_state(self) -> bool:
        return super().has_state or self.memory == "gru"


SIZES: dict[str, SpikeYOLOConfig] = {
    "p": SpikeYOLOConfig(depth=0.33, width=0.125),
    "n": SpikeYOLOConfig(depth=0.33, width=0.375),
    "s": SpikeYOLOConfig(depth=0.33, width=0.5),
    "m": SpikeYOLOConfig(depth=0.5, width=0.625, wide_p5=True),
    "l": SpikeYOLOConfig(depth=0.5, width=0.75, wide_p5=True),
}


class SpikeYOLO(DetectorNetwork):
    """x [T, B, C, H, W], H and W multiples of 32 -> raw maps [B, 64 + nc, H/s, W/s], s = 8, 16, 32.

    In training and evaluation alike. See `DetectorNetwork` for state, twins and errors.
    """

    config: SpikeYOLOConfig
    backbone = (
        *("down1", "stage1", "down2", "stage2", "down3", "stage3", "down4", "stage4"),
        "sppf",
    )

    def __init__(self, config: SpikeYOLOConfig) -> None:
        super().__init__(config)
        neuron = leaky_factory(config) if config.memory == "leaky" else neuron_factory(config)
        c1, c2, c3, c4 = (round(c * config.width) for c in (128, 256, 512, 1024))
        last_blocks = 3 if config.variant == "coco" else 1

        def repeat(block: type[nn.Module], channels: int, ratio: int, times: int) -> nn.Sequential:
            count = max(round(times * config.depth), 1)
            return nn.Sequential(*(block(neuron, channels, ratio) for _ in range(count)))

        # Backbone: strides 4, 8, 16, 32
        self.down1 = Downsample(neuron, self.input_channels, c1, stem=True)
        self.stage1 = repeat(AllConvBlock, c1, ratio=4, times=3)
        self.down2 = Downsample(neuron, c1, c2)
        self.stage2 = repeat(AllConvBlock, c2, ratio=4, times=6)
        self.down3 = Downsample(neuron, c2, c3)
        self.stage3 = repeat(ConvBlock, c3, ratio=3, times=9)
        self.down4 = Downsample(neuron, c3, c4)
        self.stage4 = repeat(ConvBlock, c4, ratio=2, times=last_blocks)
        self.sppf = SPPF(neuron, c4, c4)

        # Neck, downwards: coarse maps lend context to fine ones
        self.upsample = Upsample()
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

        widths = (c2, c2 + c2, c3 + c3)
        self.head = Detect(neuron, widths, config.num_classes)
        memories: dict[str, Callable[[int, int], nn.Module]] = {
            "spiking": lambda c, stride: Memory(neuron, c, config, stride),
            "gru": lambda c, stride: ConvGRU(c, config, stride),
        }
        remembers = memories.get(config.memory)
        self.memory = nn.ModuleList(map(remembers, widths, STRIDES) if remembers else ())
        self.carry_state = False

    @property
    def carriers(self) -> list[nn.Module]:
        """The memory alone, if there is one: all before it sees every window from rest."""
        memories: Iterable[Any] = self.memory
        return [memory.carrier for memory in memories] or super().carriers

    def decode(
        self, maps: list[Float[Tensor, "B C _ _"]]
    ) -> tuple[Float[Tensor, "B A 4"], Float[Tensor, "B A nc"]]:
        return decode(maps)

    def criterion(
        self,
        gains: Mapping[str, float] = {},
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda totals: totals,
    ) -> DetectionLoss:
        gains_of_all = published_but(LossGains(), gains)
        return DetectionLoss(self.config.num_classes, gains_of_all, sum_over_ranks=sum_over_ranks)

    def forward(self, x: Tensor) -> list[Float[Tensor, "B _ _ _"]]:
        events = x
        x = self._shown(self.down1(self._start(x)))
        x = self._run(self.stage1, x)
        p3 = self._run(self.stage2, self.down2(x))
        p4 = self._run(self.stage3, self.down3(p3))
        p5 = self.sppf(self._run(self.stage4, self.down4(p4)))

        lateral5 = self.reduce5(p5)
        p4 = torch.cat([self._run(self.top4, self.upsample(lateral5)), p4], dim=2)
        lateral4 = self.reduce4(p4)
        p3 = torch.cat([self._run(self.top3, self.upsample(lateral4)), p3], dim=2)
        p3 = self._run(self.out3, self.reduce3(p3))

        p4 = self._run(self.out4, torch.cat([self.down_to4(p3), lateral4], dim=2))
        p5 = self._run(self.out5, torch.cat([self.down_to5(p4), lateral5], dim=2))
        maps = [p3, p4, p5]
        if self.memory:
            maps = [memory(p, events) for memory, p in zip(self.memory, maps, strict=True)]
        return self.head(maps)


FAMILY = Family(SpikeYOLO, SIZES, VARIANTS, LossGains)


def resolve_config(size: str, **overrides: Any) -> DetectorConfig:
    """The configuration of a size, as `models.resolve` gives it: scripts import it from here."""
    return FAMILY.published(size, {"name": f"spikeyolo-{size}", **overrides})
