"""The SpikeYOLO authors' state_dict names -> ours, strict in both directions."""

import re

import torch
from torch import Tensor

from models.spikeyolo import SIZES, SpikeYOLO, SpikeYOLOConfig, resolve_config

#: The authors number their layers; 11, 13, 15, 17, 21 and 24 (up, cat) have no weights.
LAYERS = {
    1: "down1",
    2: "stage1",
    3: "down2",
    4: "stage2",
    5: "down3",
    6: "stage3",
    7: "down4",
    8: "stage4",
    9: "sppf",
    10: "reduce5",
    12: "top4",
    14: "reduce4",
    16: "top3",
    18: "reduce3",
    19: "out3",
    20: "down_to4",
    22: "out4",
    23: "down_to5",
    25: "out5",
    26: "head",
}
STAGES = {2, 4, 6, 8}

#: Their parts of a layer -> ours; the first pattern that matches wins, and is replaced once.
PARTS = [
    (r"^encode_(conv|bn)\.", r"\1."),
    (r"^Conv\.pwconv1\.", "mixer.pointwise."),
    (r"^Conv\.dwconv2\.", "mixer.depthwise."),
    (r"^Conv\.pwconv3\.body\.0\.bn\.", "mixer.rep.bn_pad.bn."),
    (r"^Conv\.pwconv3\.body\.1\.0\.", "mixer.rep.pointwise."),
    (r"^Conv\.pwconv3\.body\.1\.1\.", "mixer.rep.depthwise."),
    (r"^Conv\.(bn[123])\.", r"mixer.\1."),
    (r"^(conv[12])\.body\.0\.", r"\1.pointwise_in."),
    (r"^(conv[12])\.body\.1\.bn\.", r"\1.bn_pad.bn."),
    (r"^(conv[12])\.body\.2\.0\.", r"\1.depthwise."),
    (r"^(conv[12])\.body\.2\.1\.", r"\1.pointwise_out."),
    (r"^(conv[12])\.body\.2\.2\.", r"\1.bn."),
    (r"^cv([12])\.", r"conv\1."),
]
HEAD_PARTS = [(r"^cv2\.", "box."), (r"^cv3\.", "cls.")]
FROZEN_DFL = "model.26.dfl.conv.weight"


def our_name(theirs: str) -> str:
    """`model.4.1.Conv.bn1.weight` -> `stage2.1.mixer.bn1.weight`; ValueError if it is not theirs."""
    match = re.match(r"^model\.(\d+)\.(.+)$", theirs)
    if not match or int(match[1]) not in LAYERS:
        raise ValueError(f"{theirs!r} is not a name of the authors' SpikeYOLO")
    number, part = int(match[1]), match[2]
    block = ""
    if number in STAGES:
        numbered = re.match(r"^(\d+)\.(.+)$", part)
        block, part = (f"{numbered[1]}.", numbered[2]) if numbered else ("0.", part)
    for pattern, ours in HEAD_PARTS if number == 26 else PARTS:
        part, found = re.subn(pattern, ours, part)
        if found:
            break
    return f"{LAYERS[number]}.{block}{part}"


def infer_config(state: dict[str, Tensor]) -> SpikeYOLOConfig:
    """Read size, classes, channels and variant off the shapes of the authors' tensors.

    Raises ValueError if a telling tensor is absent or its width is of no published size.
    """
    stem, classes = "model.1.encode_conv.weight", "model.26.cv3.0.2.conv.weight"
    for name in (stem, classes):
        if name not in state:
            raise ValueError(f"missing tensor {name!r}: this is not a SpikeYOLO state_dict")
    width, in_channels = state[stem].shape[:2]
    sizes = [size for size, config in SIZES.items() if round(128 * config.width) == width]
    if not sizes:
        raise ValueError(f"{stem!r} has {width} channels, expected those of a size in {[*SIZES]}")
    one_block = not any(name.startswith("model.8.0.") for name in state)
    return resolve_config(
        sizes[0],
        variant="gen1" if one_block else "coco",
        num_classes=state[classes].shape[0],
        in_channels=in_channels,
    )


def convert_state_dict(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state_dict (names with their leading `model.`) -> one for `build_model`.

    Tensors keep their dtype; the frozen distance bins of the head are checked and left out, ours
    are arithmetic. Load it with `load_state_dict(..., strict=True)` into the network that
    `infer_config` describes. Raises ValueError naming a missing, extra or misshapen tensor.
    """
    state = dict(state)
    bins = state.pop(FROZEN_DFL, None)
    if bins is not None and not torch.equal(bins.flatten().double(), torch.arange(16.0).double()):
        raise ValueError(f"{FROZEN_DFL!r} holds other values than 0..15")
    with torch.device("meta"):
        expected = SpikeYOLO(infer_config(state)).state_dict()
    theirs_of = {our_name(theirs): theirs for theirs in state}
    for name, tensor in expected.items():
        if name not in theirs_of:
            raise ValueError(f"missing tensor: nothing in the state_dict becomes {name!r}")
        found = state[theirs_of[name]].shape
        if found != tensor.shape:
            raise ValueError(
                f"tensor {theirs_of[name]!r} has shape {tuple(found)}, "
                f"expected {tuple(tensor.shape)}"
            )
    for name, theirs in theirs_of.items():
        if name not in expected:
            raise ValueError(f"extra tensor {theirs!r}: the network has no place for it")
    return {name: state[theirs_of[name]] for name in expected}
