"""Layers of EMS-YOLO as plain settings: what its networks are made of, line by line.

Source: Su et al., EMS-YOLO, ICCV 2023, arXiv:2307.11411.
"""

from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import nn

from models.blocks import NeuronFactory
from models.ems.blocks import RealConv, ems_block1, ems_block2, ms_block

BLOCKS = {"ems1": ems_block1, "ems2": ems_block2, "ms": ms_block}
KINDS = (*BLOCKS, "conv")
BEHIND_BACKBONE = ("neck", "out5", "lateral", "out4")


@dataclass(frozen=True)
class Layer:
    """A line of a network's layout. Raises ValueError for an unknown kind.

    Args:
        kind: "ems1", "ems2", "ms": an EMS-Block1, EMS-Block2, MS-Block; "conv": Conv + leaky SiLU.
        channels: Channels that leave it.
        hidden: Channels between the two convolutions of a block; 0 for a "conv", which has one.
        kernel: Side of its convolutions.
        repeats: How many of it follow one another.
    """

    kind: str
    channels: int
    hidden: int = 0
    kernel: int = 3
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            found = f"a layer's kind is {self.kind!r}"
            raise ValueError(f"{found}, expected one of {', '.join(KINDS)}")


@dataclass(frozen=True)
class Layout:
    """Layers of a network; as plain mappings, from a file, they are taken as well.

    Raises ValueError for another number of stages than 4.

    Args:
        stem_channels, stem_kernel: Of the first convolution, of stride 2.
        stages: Layers of the backbone; the first of each stage halves the map.
        neck, out5, lateral, out4: The layers behind it; out4 and out5 feed the head.
    """

    stem_channels: int
    stem_kernel: int
    stages: tuple[tuple[Layer, ...], ...]
    neck: Layer
    out5: Layer
    lateral: Layer
    out4: Layer

    def __post_init__(self) -> None:
        def layer(given: Any) -> Layer:
            return given if isinstance(given, Layer) else Layer(**given)

        stages = tuple(tuple(map(layer, layers)) for layers in self.stages)
        object.__setattr__(self, "stages", stages)
        for name in BEHIND_BACKBONE:
            object.__setattr__(self, name, layer(getattr(self, name)))
        if len(stages) != 4:
            raise ValueError(f"the backbone has {len(stages)} stages, expected 4")


def ee_layout(*extra_blocks: int) -> Layout:
    """Energy-efficient, on Gen1: half-width branches, EMS-Block2 to widen, else MS-Blocks."""
    widths = (64, 128, 256, 512)
    return Layout(
        stem_channels=32,
        stem_kernel=3,
        stages=_stages([Layer("ems2", c, c // 2) for c in widths], "ms", extra_blocks),
        neck=Layer("ms", 256, 128),
        out5=Layer("ems2", 512, 256),
        lateral=Layer("ms", 128, 64, kernel=1),
        out4=Layer("ms", 256, 128),
    )


def resnet_layout(widening: str, *extra_blocks: int) -> Layout:
    """On COCO: branches of full width, stages after the first widened by a `widening` block."""
    firsts = [Layer("ems1", 64, 64), *(Layer(widening, c, c) for c in (128, 256, 512))]
    return Layout(
        stem_channels=64,
        stem_kernel=7,
        stages=_stages(firsts, "ems1", extra_blocks),
        neck=Layer("ems1", 256, 256),
        out5=Layer("conv", 512),
        lateral=Layer("ems1", 128, 128, kernel=1),
        out4=Layer("conv", 256),
    )


def _stages(
    firsts: list[Layer], kind: str, extra_blocks: tuple[int, ...]
) -> tuple[tuple[Layer, ...], ...]:
    """Behind each first layer as many blocks of its width as `extra_blocks` says."""
    extras = (
        [Layer(kind, first.channels, first.hidden, repeats=n)] if n else []
        for first, n in zip(firsts, extra_blocks, strict=True)
    )
    return tuple((first, *extra) for first, extra in zip(firsts, extras, strict=True))


def build_stage(
    neuron: NeuronFactory, silu: NeuronFactory, layers: tuple[Layer, ...], in_channels: int
) -> nn.Sequential:
    """Its blocks, of which the first has stride 2."""
    blocks: list[nn.Module] = []
    for layer in chain.from_iterable([layer] * layer.repeats for layer in layers):
        blocks.append(build_layer(neuron, silu, layer, in_channels, stride=1 if blocks else 2))
        in_channels = layer.channels
    return nn.Sequential(*blocks)


def build_layer(
    neuron: NeuronFactory, silu: NeuronFactory, layer: Layer, in_channels: int, stride: int = 1
) -> nn.Module:
    """One of it, whatever its `repeats`; `silu` ends a "conv", `neuron` fires in the others."""
    if layer.kind == "conv":
        return RealConv(in_channels, layer.channels, layer.kernel, stride, act=silu)
    shape = (in_channels, layer.channels, layer.kernel, stride, layer.hidden)
    return BLOCKS[layer.kind](neuron, *shape)
