"""EMS-YOLO, read from top to bottom: backbone, neck, head.

Source: Su et al., "Deep Directly-Trained Spiking Neural Networks for Object Detection", ICCV
2023, arXiv:2307.11411.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from models.detector import (
    DetectorConfig,
    DetectorNetwork,
    Family,
    Upsample,
    published_but,
)
from models.ems.blocks import RealConv
from models.ems.head import AnchorDetect, Anchors, decode_anchors
from models.ems.layout import Layout, build_layer, build_stage, ee_layout, resnet_layout
from models.ems.loss import AnchorGains, AnchorLoss
from models.ems.neuron import LeakySiLU
from models.neuron import neuron_factory

FINE_ANCHORS = (10, 14, 23, 27, 37, 58)
COCO_ANCHORS: Anchors = (FINE_ANCHORS, (81, 82, 135, 169, 344, 319))
GEN1_ANCHORS: Anchors = (FINE_ANCHORS, (81, 82, 135, 169, 216, 269))

#: What a published layout changes, unless the caller says otherwise.
VARIANTS: dict[str, dict[str, Any]] = {
    "coco": {},
    "gen1": {"num_classes": 2, "in_channels": 2, "time_steps": 5, "anchors": GEN1_ANCHORS},
}


RES10 = ee_layout(0, 0, 0, 0)


@dataclass(frozen=True)
class EMSConfig(DetectorConfig):
    """Everything that shapes the network; where no name says more, that of COCO.

    Settings of every detector: see `DetectorConfig`. Raises ValueError for an impossible setting.

    Args:
        layout: The layers.
        anchors: Per stride (16, 32) the anchors' sides (w, h, w, h, ...) in network px.
        activation: "lif-hard", the binary neuron of EMS-YOLO, of max_spikes 1; "ilif" and "nilif",
            the integer neurons of SpikeYOLO and Spike2Former; "relu", the ANN twin.
    """

    time_steps: int = 4
    max_spikes: int = 1
    activation: Literal["lif-hard", "ilif", "nilif", "relu"] = "lif-hard"
    layout: Layout = RES10
    anchors: Anchors = COCO_ANCHORS

    family: ClassVar[str] = "ems"
    by_name: ClassVar[tuple[str, ...]] = ("layout",)
    renamed: ClassVar[Mapping[str, str]] = {"lif": "lif-hard"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.layout, Mapping):  # as checkpoints hold it
            object.__setattr__(self, "layout", Layout(**self.layout))
        if any(len(sides) % 2 or not sides for sides in self.anchors) or len(self.anchors) != 2:
            raise ValueError(f"anchors is {self.anchors}, expected 2 rows of w, h, w, h, ... in px")


#: Published: all but resnet10 and resnet10-cat, which are resnet34 without its extra blocks.
SIZES: dict[str, EMSConfig] = {
    "res10": EMSConfig(),
    "res18": EMSConfig(layout=ee_layout(1, 1, 1, 1)),
    "res34": EMSConfig(layout=ee_layout(2, 3, 5, 2)),
    "resnet10": EMSConfig(layout=resnet_layout("ems1", 0, 0, 0, 0)),
    "resnet10-cat": EMSConfig(layout=resnet_layout("ems2", 0, 0, 0, 0)),
    "resnet34-cat": EMSConfig(layout=resnet_layout("ems2", 2, 3, 5, 2)),
}


class EMSYOLO(DetectorNetwork):
    """x [T, B, C, H, W], H and W multiples of 32 -> raw maps [B, 3 (5 + nc), H/s, W/s], s = 16, 32.

    In training and evaluation alike. See `DetectorNetwork` for state, twins and errors.
    """

    config: EMSConfig
    backbone = ("stem", "stage1", "stage2", "stage3", "stage4")

    def __init__(self, config: EMSConfig) -> None:
        super().__init__(config)
        neuron = neuron_factory(config)
        silu = partial(LeakySiLU, config.decay)
        stage, layer = partial(build_stage, neuron, silu), partial(build_layer, neuron, silu)
        layout = config.layout
        c1, c2, c3, c4 = (layers[-1].channels for layers in layout.stages)

        # Backbone: strides 4, 8, 16, 32
        self.stem = RealConv(self.input_channels, layout.stem_channels, layout.stem_kernel, 2)
        self.stage1 = stage(layout.stages[0], layout.stem_channels)
        self.stage2 = stage(layout.stages[1], c1)
        self.stage3 = stage(layout.stages[2], c2)
        self.stage4 = stage(layout.stages[3], c3)

        # Neck: the coarse map lends context to the fine one
        self.neck = layer(layout.neck, c4)
        self.out5 = layer(layout.out5, layout.neck.channels)
        self.lateral = layer(layout.lateral, layout.neck.channels)
        self.upsample = Upsample()
        self.out4 = layer(layout.out4, layout.lateral.channels + c3)

        head_channels = (layout.out4.channels, layout.out5.channels)
        self.head = AnchorDetect(head_channels, config.num_classes, config.anchors)
        self.carry_state = False

    def forward(self, x: Tensor) -> list[Float[Tensor, "B _ _ _"]]:
        x = self._shown(self.stem(self._start(x)))
        x = self._run(self.stage2, self._run(self.stage1, x))
        p4 = self._run(self.stage3, x)
        p5 = self._run(self.neck, self._run(self.stage4, p4))
        context = self.upsample(self._run(self.lateral, p5))
        p4 = self._run(self.out4, torch.cat([context, p4], dim=2))
        return self.head([p4, self._run(self.out5, p5)])

    def decode(
        self, maps: list[Float[Tensor, "B _ _ _"]]
    ) -> tuple[Float[Tensor, "B A 4"], Float[Tensor, "B A nc"]]:
        return decode_anchors(maps, self.config.anchors)

    def criterion(
        self,
        gains: Mapping[str, float] = {},
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda totals: totals,
    ) -> AnchorLoss:
        config = self.config
        return AnchorLoss(
            config.num_classes,
            config.anchors,
            published_but(AnchorGains(), gains),
            sum_over_ranks=sum_over_ranks,
        )


FAMILY = Family(EMSYOLO, SIZES, VARIANTS, AnchorGains)
