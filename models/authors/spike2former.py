"""The Spike2Former authors' names of layers and tensors, and what shapes tell of a network."""

from torch import nn

from models.spike2former.backbone import (
    ConvBlock,
    LinearAttention,
    MetaSpikeFormer,
    SepConv,
    TransformerBlock,
)
from models.spike2former.blocks import ESC, MLP
from models.spike2former.decoder import Attention, DecoderLayer, DecoderMLP, Queries
from models.spike2former.head import MaskEmbedding, MaskHead
from models.spike2former.network import Spike2Former
from models.spike2former.pixel_decoder import (
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
