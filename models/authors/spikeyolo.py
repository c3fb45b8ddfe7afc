"""The SpikeYOLO authors' names of layers and tensors, and what shapes tell of a network."""

import torch
from torch import Tensor, nn

from models import resolve
from models.blocks import (
    SPPF,
    AllConvBlock,
    ConvBlock,
    Downsample,
    RepConv,
    SepConv,
    SepRepConv,
    SpikeConv,
)
from models.head import Detect
from models.spikeyolo import SIZES, SpikeYOLO, SpikeYOLOConfig

#: What the authors call the parts of a module, by our class; parts not listed keep their name.
#: Their layers are numbered; 11, 13, 15, 17, 21 and 24 (up, cat) have no weights.
THEIR_PARTS: dict[type[nn.Module], dict[str, str]] = {
    SpikeYOLO: {
        "down1": "model.1",
        "stage1": "model.2",
        "down2": "model.3",
        "stage2": "model.4",
        "down3": "model.5",
        "stage3": "model.6",
        "down4": "model.7",
        "stage4": "model.8",
        "sppf": "model.9",
        "reduce5": "model.10",
        "top4": "model.12",
        "reduce4": "model.14",
        "top3": "model.16",
        "reduce3": "model.18",
        "out3": "model.19",
        "down_to4": "model.20",
        "out4": "model.22",
        "down_to5": "model.23",
        "out5": "model.25",
        "head": "model.26",
    },
    Downsample: {"neuron": "encode_lif", "conv": "encode_conv", "bn": "encode_bn"},
    SpikeConv: {"neuron": "lif"},
    SepConv: {
        "neuron1": "lif1",
        "pointwise": "pwconv1",
        "neuron2": "lif2",
        "depthwise": "dwconv2",
        "neuron3": "lif3",
        "rep": "pwconv3",
    },
    RepConv: {
        "pointwise_in": "body.0",
        "bn_pad": "body.1",
        "depthwise": "body.2.0",
        "pointwise_out": "body.2.1",
        "bn": "body.2.2",
    },
    SepRepConv: {"bn_pad": "body.0", "pointwise": "body.1.0", "depthwise": "body.1.1"},
    AllConvBlock: {"mixer": "Conv"},
    ConvBlock: {"mixer": "Conv", "neuron1": "lif1", "neuron2": "lif2"},
    SPPF: {"conv1": "cv1", "conv2": "cv2"},
    Detect: {"box": "cv2", "cls": "cv3"},
}
STEM = "model.1.encode_conv.weight"
CLASSES = "model.26.cv3.0.2.conv.weight"
FROZEN = {"model.26.dfl.conv.weight": torch.arange(16.0).view(1, 16, 1, 1)}
COCO_CLASSES = 80


def infer_spikeyolo_config(state: dict[str, Tensor], variant: str | None = None) -> SpikeYOLOConfig:
    """Size, classes, channels and variant.

    Sizes p, n and s have the same layers in both variants, so there, with `variant` None, 80
    classes mean "coco" and any other number "gen1"; in m and l the blocks of layer 8 tell.
    """
    for name in (STEM, CLASSES):
        if name not in state:
            raise ValueError(f"missing tensor {name!r}: this is not a SpikeYOLO state_dict")
        if state[name].dim() != 4:
            shape = tuple(state[name].shape)
            raise ValueError(f"tensor {name!r} has shape {shape}, expected [out, in, k, k]")
    width, in_channels = state[STEM].shape[:2]
    num_classes = state[CLASSES].shape[0]
    sizes = [size for size, config in SIZES.items() if round(128 * config.width) == width]
    if not sizes:
        raise ValueError(f"{STEM!r} has {width} channels, expected those of a size in {[*SIZES]}")
    if variant is None:
        three_blocks_in_layer8 = any(name.startswith("model.8.1.") for name in state)
        same_layers = max(round(3 * SIZES[sizes[0]].depth), 1) == 1
        is_coco = num_classes == COCO_CLASSES if same_layers else three_blocks_in_layer8
        variant = "coco" if is_coco else "gen1"
    config = resolve(
        f"spikeyolo-{sizes[0]}", variant=variant, num_classes=num_classes, in_channels=in_channels
    )
    assert isinstance(config, SpikeYOLOConfig)
    return config
