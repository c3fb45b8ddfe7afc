"""Spike2Former, read from top to bottom: backbone, pixel decoder, decoder, head.

Source: Lei et al., "Spike2Former: Efficient Spiking Transformer for High-performance Image
Segmentation", AAAI 2025, arXiv:2412.14587.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from models.detector import DetectorConfig, DetectorNetwork, Family, published_but
from models.neuron import neuron_factory
from models.spike2former.backbone import ESpikeFormer, MetaSpikeFormer
from models.spike2former.blocks import Axes
from models.spike2former.decoder import Decoder, Queries
from models.spike2former.fpn import FPNHead, decode_pixels
from models.spike2former.head import MaskHead, decode_masks
from models.spike2former.loss import Ignored, MaskLoss, PixelLoss, SegmentationGains
from models.spike2former.pixel_decoder import PixelDecoder

#: On the shares of D that the mask head reads, as published; with D = 4 it undoes the division.
GAIN = 4.0
#: What a published layout changes, unless the caller says otherwise.
VARIANTS: dict[str, dict[str, Any]] = {
    "coco": {},
    "gen1": {"num_classes": 4, "in_channels": 2},
}


@dataclass(frozen=True)
class Spike2FormerConfig(DetectorConfig):
    """Everything that shapes the network; where no name says more, that of ADE20K.

    Settings of every network: see `DetectorConfig`. The published neuron has no memory, decay 0:
    T steps are T images whose logits are averaged. decay above 0 lets membranes pass from bin to
    bin, which is ours. Raises ValueError for an impossible setting.

    Args:
        head: "mask", published: queries, each a class and a mask; "fpn", ours: a class per px.
        axes: Where the published network reshapes what it should permute: "aligned" permutes;
            "published" reads the authors' weights, and no other input size as it did one.
        ignored: Px labelled 255: "left-out" of the mask head's loss; "background" as published.
        fpn_stride: Of the logits of head "fpn", px: 4 or 2.
        backbone: "meta", Meta-SpikeFormer, published; "e", E-SpikeFormer, spikes but for its stem.
        activation: "nilif", counts divided by D; "ilif", counts, but for attention and masks, which
            read shares of D; "relu", the ANN twin, clipped to [0, 1] where attention multiplies.
    """

    num_classes: int = 150
    decay: float = 0.0
    detach_reset: bool = False
    activation: Literal["nilif", "ilif", "relu"] = "nilif"
    head: Literal["mask", "fpn"] = "mask"
    axes: Axes = "aligned"
    ignored: Ignored = "left-out"
    fpn_stride: int = 4
    backbone: Literal["meta", "e"] = "meta"
    widths: tuple[int, ...] = (64, 128, 256, 360)
    backbone_heads: int = 8
    channels: int = 256
    queries: int = 100
    encoder_layers: int = 6
    encoder_hidden: int = 1024
    encoder_groups: int = 32
    decoder_layers: int = 6
    decoder_hidden: int = 2048
    decoder_heads: int = 8

    family: ClassVar[str] = "spike2former"
    task: ClassVar[str] = "segmentation"
    by_name: ClassVar[tuple[str, ...]] = (
        "backbone",
        "widths",
        "backbone_heads",
        "channels",
        "queries",
        "encoder_layers",
        "encoder_hidden",
        "encoder_groups",
        "decoder_layers",
        "decoder_hidden",
        "decoder_heads",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "widths", tuple(self.widths))  # as files hold it
        if len(self.widths) != 4:
            raise ValueError(f"widths is {self.widths}, expected 4 numbers of channels")
        if self.fpn_stride not in (2, 4):
            raise ValueError(f"fpn_stride is {self.fpn_stride}, expected 2 or 4")


TINY = Spike2FormerConfig(
    widths=(16, 32, 64, 96),
    channels=64,
    queries=16,
    encoder_layers=2,
    encoder_hidden=128,
    encoder_groups=8,
    decoder_layers=3,
    decoder_hidden=128,
    decoder_heads=4,
)
#: Published: the backbones of all but tiny, with the head of ADE20K. Tiny learns within minutes.
#: "e-...": E-SpikeFormer of the size in its name.
SIZES: dict[str, Spike2FormerConfig] = {
    "tiny": TINY,
    "15m": Spike2FormerConfig(),
    "31m": Spike2FormerConfig(widths=(96, 192, 384, 480)),
    "55m": Spike2FormerConfig(widths=(128, 256, 512, 640)),
    "e-tiny": replace(TINY, backbone="e"),
    "e-5m": Spike2FormerConfig(backbone="e", widths=(32, 64, 128, 192)),
    "e-10m": Spike2FormerConfig(backbone="e", widths=(48, 96, 192, 240)),
    "e-19m": Spike2FormerConfig(backbone="e", widths=(64, 128, 256, 360)),
}


class Spike2Former(DetectorNetwork):
    """x [T, B, C, H, W], H and W multiples of 32 -> raw maps of the head.

    "mask": class logits [L, B, Q, nc + 1] and mask logits [L, B, Q, H/2, W/2] of L levels, before
    and after each decoder layer; with `decoded_only` set, in evaluation, of the last alone.
    "fpn": class logits [B, nc, H/s, W/s]. See `DetectorNetwork` for state, twins and errors.
    """

    config: Spike2FormerConfig
    backbone = ("spikeformer",)

    def __init__(self, config: Spike2FormerConfig) -> None:
        super().__init__(config)
        neuron = neuron_factory(config)
        former = ESpikeFormer if config.backbone == "e" else MetaSpikeFormer
        self.spikeformer = former(neuron, self.input_channels, config.widths, config.backbone_heads)
        channels, axes = config.channels, config.axes
        maps = self.spikeformer.channels
        if config.head == "fpn":
            self.fpn = FPNHead(neuron, maps, channels, config.num_classes, config.fpn_stride)
        else:
            self.pixel_decoder = PixelDecoder(
                neuron,
                maps,
                channels,
                config.encoder_layers,
                config.encoder_hidden,
                config.encoder_groups,
                axes,
            )
            self.queries = Queries(channels, config.queries)
            self.decoder = Decoder(
                neuron,
                channels,
                config.decoder_layers,
                config.decoder_hidden,
                config.decoder_heads,
                axes,
            )
            gain = GAIN if config.is_spiking else 1.0
            self.head = MaskHead(neuron, channels, config.queries, config.num_classes, gain)
        self.carry_state = False

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self._shown(self.spikeformer.stem(self._start(x)))
        maps = self.spikeformer(x, self._run)
        if self.config.head == "fpn":
            return self.fpn(maps)
        feature, memories = self.pixel_decoder(maps, self._run)
        levels = self.decoder(memories, self.queries)
        if self.decoded_only and not self.training:
            levels = levels[-1:]
        return self.head(levels, feature)

    def decode(  # type: ignore[override]  # classes per px, no boxes
        self, maps: list[Tensor], size_hw: tuple[int, int] | torch.Size
    ) -> Float[Tensor, "B nc H W"]:
        """Raw maps -> scores [B, nc, H, W] at any size; the class of a px is the largest."""
        of_head = decode_pixels if self.config.head == "fpn" else decode_masks
        return of_head(maps, size_hw)

    def criterion(
        self,
        gains: Mapping[str, float] = {},
        sum_over_ranks: Callable[[Tensor], Tensor] = lambda totals: totals,
    ) -> MaskLoss | PixelLoss:
        config = self.config
        weights = published_but(SegmentationGains(), gains)
        if config.head == "fpn":
            return PixelLoss(config.num_classes, weights, sum_over_ranks)
        return MaskLoss(config.num_classes, weights, config.ignored, sum_over_ranks)


FAMILY = Family(Spike2Former, SIZES, VARIANTS, SegmentationGains)
