"""The multiplications of one step of the published network at 512x512, against the authors'."""

import json
from collections import Counter

import pytest
import torch
from torch import nn

from models import build_model
from models.spike2former.products import Sampling, SpikeMatmul
from models.spike2former.sampling import POINTS
from tests.models.spike2former.conftest import FIGURES

FILES = [*FIGURES.glob("macs_ade20k_512.json")]
#: Kinds of theirs that are ours: a convolution over tokens, or a linear layer, is one of 1x1.
CONVOLUTIONS = ("Conv2d", "Conv1d", "Linear")


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_golden_macs(file):
    with torch.device("meta"):
        model = build_model("spike2former-15m").eval()
    ours: Counter[str] = Counter()

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            ours["layers"] += y.numel() * module.weight[0].numel()
        elif isinstance(module, SpikeMatmul):
            ours["products"] += y.numel() * inputs[0].shape[-1]
        elif isinstance(module, Sampling):  # four corners and a weight
            ours["sampling"] += y.numel() * POINTS * 5

    for module in model.modules():
        module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 1, 3, 512, 512, device="meta"))
    theirs: Counter[str] = Counter()
    for _layer, kind, _weight, _shape, macs in json.loads(file.read_text())["rows"]:
        is_layer, is_sampling = kind in CONVOLUTIONS, kind.startswith("bilinear")
        theirs["layers" if is_layer else "sampling" if is_sampling else "products"] += macs
    assert ours == theirs
