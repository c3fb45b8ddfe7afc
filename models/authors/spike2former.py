"""The Spike2Former authors' names of layers and tensors, and what shapes tell of a network."""

import re
from dataclasses import replace

import torch
from torch import Tensor, nn

from models import resolve
from models.spike2former.backbone import (
    ConvBlock,
    ESpikeFormer,
    LinearAttention,
    MetaSpikeFormer,
    SepConv,
    SpikingConvBlock,
    SpikingTransformerBlock,
    TransformerBlock,
    WideAttention,
)
from models.spike2former.blocks import ESC, MLP
from models.spike2former.decoder import Attention, DecoderLayer, DecoderMLP, Queries
from models.spike2former.head import MaskEmbedding, MaskHead
from models.spike2former.network import SIZES, Spike2Former, Spike2FormerConfig
from models.spike2former.pixel_decoder import (
    POINTS,
    DeformableAttention,
    EncoderLayer,
    EncoderMLP,
    PixelDecoder,
)


def of_synapse(ours: str, conv: str, bn: str) -> dict[str, str]:
    """Parts of the parts of a block."""
    return {f"{ours}.conv": conv, f"{ours}.bn": bn}


def numbered(ours: str, theirs: str) -> dict[str, str]:
    """A synapse that is a sequence of theirs."""
    return of_synapse(ours, f"{theirs}.0", f"{theirs}.1")


def down(ours: str, theirs: str) -> dict[str, str]:
    return of_synapse(ours, f"{theirs}.encode_conv", f"{theirs}.encode_bn")


FC = {**of_synapse("expand", "fc1_conv", "fc1_bn"), **of_synapse("project", "fc2_conv", "fc2_bn")}
#: What the authors call the parts of a module, by our class; "a.b" names a part of a part.
SPIKE2FORMER_PARTS: dict[type[nn.Module], dict[str, str]] = {
    MetaSpikeFormer: {
        **down("stem", "downsample1_1"),
        "stage1": "ConvBlock1_1.0",  # a single block stands for its stage
        **down("down2", "downsample1_2"),
        "stage2": "ConvBlock1_2.0",
        **down("down3", "downsample2"),
        "stage3.0": "ConvBlock2_1.0",
        "stage3.1": "ConvBlock2_2.0",
        **down("down4", "downsample3"),
        "stage4": "block3",
        **down("widen", "downsample4"),
        "stage5": "block4",
    },
    SepConv: {
        **of_synapse("expand", "pwconv1", "bn1"),
        "depthwise.conv": "dwconv",
        **of_synapse("project", "pwconv2", "bn2"),
    },
    ConvBlock: {
        "mixer": "Conv",
        **of_synapse("conv1", "conv1", "bn1"),
        **of_synapse("conv2", "conv2", "bn2"),
    },
    LinearAttention: {
        f"{ours}{part}": f"{theirs}.{number}"
        for ours, theirs in (
            *(("query", "q_conv"), ("key", "k_conv"), ("value", "v_conv")),
            ("out", "proj_conv"),
        )
        for number, part in enumerate(("", "_bn"))
    },
    TransformerBlock: {"attention": "attn"},
    SpikingTransformerBlock: {"mixer": "conv", "attention": "attn"},
    MLP: FC,
    EncoderMLP: FC,
    DecoderMLP: {
        **of_synapse("expand", "fc1", "bn1"),
        **of_synapse("project", "fc2", "bn2"),
    },
    ESC: {
        **numbered("expand", "pwconv1"),
        **numbered("depthwise", "dwconv"),
        **numbered("project", "pwconv2"),
    },
    DeformableAttention: {
        "value": "input_proj",
        **numbered("context", "dw_conv"),
        "offset": "offset.0",
        "offset_bn": "offset.1",
        "weight": "mask.0",
        "weight_bn": "mask.1",
        "project": "output_proj",
    },
    EncoderLayer: {"mixer": "Conv", "attention": "dcn", "mlp": "ffn"},
    PixelDecoder: {
        **numbered("enter", "encoder_in_proj"),
        "encoder": "encoder.layers",
        **numbered("leave", "encoder_out_proj"),
        **{
            name: path
            for i in range(3)
            for name, path in (
                numbered(f"laterals.{i}", f"lateral_convs.{i}")
                | numbered(f"smooth.{i}", f"output_convs.{i}")
            ).items()
        },
        "mask_feature.conv": "mask_feature",
    },
    Attention: {
        **numbered("query", "attn.q_conv"),
        **numbered("key", "attn.k_conv"),
        **numbered("value", "attn.v_conv"),
        **numbered("out", "attn.out_conv"),
    },
    MaskEmbedding: {"conv1": "fc1", "conv2": "fc2", "conv3": "fc_out"},
    MaskHead: {
        "classify": "cls_embed",
        "embed": "mask_embed",
        "shortcut": "shortcut_conv.0",
        "shortcut_bn": "shortcut_conv.1",
    },
    Spike2Former: {
        "spikeformer": "backbone",
        "pixel_decoder": "decode_head.pixel_decoder",
        "queries": "decode_head",
        "decoder": "decode_head.transformer_decoder",
        "head": "decode_head",
    },
    DecoderLayer: {"to_map": "cross_attn", "to_queries": "self_attn", "mlp": "ffn"},
}
for variant, like in (
    (ESpikeFormer, MetaSpikeFormer),
    (SpikingConvBlock, ConvBlock),
    (WideAttention, LinearAttention),
):
    SPIKE2FORMER_PARTS[variant] = SPIKE2FORMER_PARTS[like]
#: What they call a module's own tensors.
THEIR_TENSORS: dict[type[nn.Module], dict[str, str]] = {
    EncoderLayer: {
        "mixer_scale": "gamma1",
        "attention_scale": "gamma2",
        "mlp_scale": "gamma3",
    },
    MaskHead: {"shortcut_scale": "w"},
    Queries: {
        "start": "query_feat.weight",
        "place": "query_embed.weight",
        "scale": "level_embed.weight",
    },
}


def spike2former_parts(module: nn.Module) -> dict[str, str]:
    return SPIKE2FORMER_PARTS.get(type(module), {})


#: A layer that only E-SpikeFormer has.
OF_E = "backbone.block3.0.conv.dwconv.0.weight"
STEM = "backbone.downsample1_1.encode_conv.weight"
HEAD, ENCODER = "decode_head", "decode_head.pixel_decoder.encoder.layers"
DECODER = "decode_head.transformer_decoder.layers"
#: Layers of theirs over tokens: convolutions of one axis, and linear ones.
ONE_AXIS = re.compile(r"\.(mlp|ffn|self_attn|cross_attn)\.|shortcut_conv\.0")
NO_AXIS = re.compile(r"\.(cls_embed|mask_embed)\.")


def their_shape(name: str, ours: torch.Size) -> torch.Size:
    """Of a tensor they call `name`: a 1x1 convolution of ours may have fewer axes there."""
    if len(ours) != 4:
        return ours
    axes = 0 if NO_AXIS.search(name) else 1 if ONE_AXIS.search(name) else 2
    return torch.Size(ours[: 2 + axes])


def is_spike2former(state: dict[str, Tensor]) -> bool:
    return STEM in state and state[STEM].dim() == 4


def infer_spike2former_config(
    state: dict[str, Tensor], variant: str | None = None
) -> Spike2FormerConfig:
    """Read everything but the heads off names and shapes; those are 8 in all published networks.

    Axes are as published, or the weights would mean nothing. Raises ValueError if a telling
    tensor is absent.
    """

    def shape(name: str) -> torch.Size:
        if name not in state:
            raise ValueError(f"missing tensor {name!r}: this is not a Spike2Former state_dict")
        return state[name].shape

    downs = ("1_2", "2", "3", "4")
    widths = tuple(shape(f"backbone.downsample{d}.encode_conv.weight")[0] for d in downs)
    queries, channels = shape(f"{HEAD}.query_feat.weight")
    config = resolve(
        "spike2former-15m",
        variant=variant or "coco",
        num_classes=shape(f"{HEAD}.cls_embed.weight")[0] - 1,
        in_channels=shape(STEM)[1],
        axes="published",
        backbone="e" if OF_E in state else "meta",
        widths=widths,
        channels=channels,
        queries=queries,
        encoder_layers=_count(state, ENCODER),
        encoder_hidden=shape(f"{ENCODER}.0.ffn.fc1_conv.weight")[0],
        encoder_groups=shape(f"{ENCODER}.0.dcn.mask.0.weight")[0] // POINTS,
        decoder_layers=_count(state, DECODER),
        decoder_hidden=shape(f"{DECODER}.0.ffn.fc1.weight")[0],
    )
    assert isinstance(config, Spike2FormerConfig)
    ours = widths, config.backbone
    sizes = (size for size, of in SIZES.items() if (of.widths, of.backbone) == ours)
    return replace(config, name="-".join(["spike2former", *sizes]))


def _count(state: dict[str, Tensor], layers: str) -> int:
    """How many numbered layers there are."""
    return len({name[len(layers) + 1 :].split(".")[0] for name in state if name.startswith(layers)})
