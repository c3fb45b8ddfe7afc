"""EMS-YOLO, read from top to bottom: backbone, neck, head.

Source: Su et al., "Deep Directly-Trained Spiking Neural Networks for Object Detection", ICCV
2023, arXiv:2307.11411.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.anchor_head import AnchorDetect, Anchors, decode_anchors
from models.anchor_loss import AnchorGains, AnchorLoss
from models.blocks import Neuron
from models.detector import DetectorConfig, DetectorNetwork, Upsample, published_but, with_overrides
from models.ems_blocks import RealConv, ems_block1, ems_block2, ms_block
from models.lif import LeakySiLU, LIFNode
from models.spikeyolo import neuron_factory

ACTIVATIONS = ("lif", "ilif", "nilif", "relu")
LAYOUTS = ("ee", "resnet")
NECK = ("neck", "out5", "lateral", "out4")
WIDENED = ("stage1", "stage2", "stage3", "stage4", *NECK)
WIDE = 1024
FINE_ANCHORS = (10, 14, 23, 27, 37, 58)
COCO_ANCHORS: Anchors = (FINE_ANCHORS, (81, 82, 135, 169, 344, 319))
GEN1_ANCHORS: Anchors = (FINE_ANCHORS, (81, 82, 135, 169, 216, 269))

#: What a published layout changes, unless the caller says otherwise.
VARIANTS: dict[str, dict[str, Any]] = {
    "coco": {},
    "gen1": {"num_classes": 2, "in_channels": 2, "time_steps": 5, "anchors": GEN1_ANCHORS},
}


@dataclass(frozen=True)
class EMSConfig(DetectorConfig):
    """Everything that shapes the network; the defaults are those of COCO.

    Settings of every detector: see `DetectorConfig`. Raises ValueError for an impossible setting.

    Args:
        layout: "ee", energy-efficient: half-width branches, MS-Blocks; "resnet": of full width.
        extra_blocks: Blocks of each of the four stages after its first, which halves the map.
        concat: In "resnet", widen by concatenation (EMS-Block2), not by EMS-Block1.
        wide: In "resnet", stages and parts whose (first) branch is 1024 channels wide inside.
        real: In "resnet", parts of the neck that are Conv + leaky SiLU, not EMS-Block1.
        anchors: Per stride (16, 32) the anchors' sides (w, h, w, h, ...) in network px.
        activation: "lif", the binary neuron of EMS-YOLO, of max_spikes 1; "ilif" and "nilif", the
            integer neurons of SpikeYOLO and Spike2Former; "relu", the ANN twin.
    """

    time_steps: int = 4
    max_spikes: int = 1
    activation: str = "lif"
    layout: str = "ee"
    extra_blocks: tuple[int, int, int, int] = (0, 0, 0, 0)
    concat: bool = True
    wide: tuple[str, ...] = ()
    real: tuple[str, ...] = ("out5", "out4")
    anchors: Anchors = COCO_ANCHORS

    activations: ClassVar[tuple[str, ...]] = ACTIVATIONS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout is {self.layout!r}, expected one of {', '.join(LAYOUTS)}")
        for name, known in (("wide", WIDENED), ("real", NECK)):
            if unknown := set(getattr(self, name)) - set(known):
                raise ValueError(f"{name} has {min(unknown)!r}, expected {', '.join(known)}")
        if any(len(sides) % 2 or not sides for sides in self.anchors) or len(self.anchors) != 2:
            raise ValueError(f"anchors is {self.anchors}, expected 2 rows of w, h, w, h, ... in px")
        if self.activation == "lif":
            for name, fixed in (("max_spikes", 1), ("input_scale", 1), ("detach_reset", True)):
                if getattr(self, name) != fixed:
                    found = f"{name} is {getattr(self, name)}"
                    raise ValueError(f"{found}, expected {fixed} for the binary neuron 'lif'")


SIZES: dict[str, EMSConfig] = {
    "res10": EMSConfig(),
    "res18": EMSConfig(extra_blocks=(1, 1, 1, 1)),
    "res34": EMSConfig(extra_blocks=(2, 3, 5, 2)),
    "resnet10-cat": EMSConfig(layout="resnet"),
    "resnet34-cat": EMSConfig(layout="resnet", extra_blocks=(2, 3, 5, 2)),
}


def resolve_config(size: str, **overrides: Any) -> EMSConfig:
    """Size, then variant, then the overrides that are not None -> the whole configuration.

    An integer neuron without a `max_spikes` has the 4 of SpikeYOLO.
    """
    if overrides.get("activation") not in (None, "lif") and overrides.get("max_spikes") is None:
        overrides["max_spikes"] = DetectorConfig.max_spikes
    return with_overrides(SIZES[size], VARIANTS, overrides)


class EMSYOLO(DetectorNetwork):
    """x [T, B, C, H, W], H and W multiples of 32 -> raw maps [B, 3 (5 + nc), H/s, W/s], s = 16, 32.

    In training and evaluation alike. See `DetectorNetwork` for state, twins and errors.
    """

    config: EMSConfig
    neck: nn.Module
    out5: nn.Module
    lateral: nn.Module
    out4: nn.Module

    def __init__(self, config: EMSConfig) -> None:
        super().__init__(config)
        binary = partial(LIFNode, config.decay, config.backend)
        neuron = binary if config.activation == "lif" else neuron_factory(config)
        (self._build_ee if config.layout == "ee" else self._build_resnet)(neuron)
        self.upsample = Upsample()
        self.head = AnchorDetect((256, 512), config.num_classes, config.anchors)
        self.carry_state = False

    def _build_ee(self, neuron: Neuron) -> None:
        def stage(index: int, in_channels: int, out_channels: int) -> nn.Sequential:
            first = ems_block2(neuron, in_channels, out_channels, stride=2)
            extra = range(self.config.extra_blocks[index])
            return nn.Sequential(
                first, *(ms_block(neuron, out_channels, out_channels) for _ in extra)
            )

        # Backbone: strides 4, 8, 16, 32
        self.stem = RealConv(self.input_channels, 32, 3, 2)
        self.stage1 = stage(0, 32, 64)
        self.stage2 = stage(1, 64, 128)
        self.stage3 = stage(2, 128, 256)
        self.stage4 = stage(3, 256, 512)

        # Neck: the coarse map lends context to the fine one
        self.neck = ms_block(neuron, 512, 256)
        self.out5 = ems_block2(neuron, 256, 512)
        self.lateral = ms_block(neuron, 256, 128, kernel=1)
        self.out4 = ms_block(neuron, 128 + 256, 256)

    def _build_resnet(self, neuron: Neuron) -> None:
        config = self.config

        def stage(index: int, in_channels: int, out_channels: int) -> nn.Sequential:
            widens = config.concat and in_channels != out_channels
            hidden = WIDE if f"stage{index + 1}" in config.wide else out_channels
            block = ems_block2 if widens else ems_block1
            first = block(neuron, in_channels, out_channels, stride=2, hidden=hidden)
            extra = range(config.extra_blocks[index])
            return nn.Sequential(
                first, *(ems_block1(neuron, out_channels, out_channels) for _ in extra)
            )

        def part(name: str, in_channels: int, out_channels: int, kernel: int = 3) -> nn.Module:
            if name in config.real:
                silu = partial(LeakySiLU, config.decay)
                return RealConv(in_channels, out_channels, kernel, act=silu)
            hidden = WIDE if name in config.wide else out_channels
            return ems_block1(neuron, in_channels, out_channels, kernel, hidden=hidden)

        # Backbone: strides 4, 8, 16, 32
        self.stem = RealConv(self.input_channels, 64, 7, 2)
        self.stage1 = stage(0, 64, 64)
        self.stage2 = stage(1, 64, 128)
        self.stage3 = stage(2, 128, 256)
        self.stage4 = stage(3, 256, 512)

        # Neck: the coarse map lends context to the fine one
        self.neck = part("neck", 512, 256)
        self.out5 = part("out5", 256, 512)
        self.lateral = part("lateral", 256, 128, kernel=1)
        self.out4 = part("out4", 128 + 256, 256)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(self._start(x))
        x = self._run(self.stage2, self._run(self.stage1, x))
        p4 = self._run(self.stage3, x)
        p5 = self._run(self.neck, self._run(self.stage4, p4))
        context = self.upsample(self._run(self.lateral, p5))
        p4 = self._run(self.out4, torch.cat([context, p4], dim=2))
        return self.head([p4, self._run(self.out5, p5)])

    def decode(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        return decode_anchors(maps, self.config.anchors)

    def criterion(
        self,
        gains: Mapping[str, float],
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda totals: totals,
    ) -> AnchorLoss:
        config = self.config
        return AnchorLoss(
            config.num_classes,
            config.anchors,
            published_but(AnchorGains(), gains),
            sum_over_ranks=sum_over_ranks,
        )
