"""Every block against the authors', in both codes, in evaluation and training."""

import json
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from models.authors import tensor_names
from models.blocks import (
    SPPF,
    AllConvBlock,
    BNAndPad,
    ConvBlock,
    Downsample,
    RepConv,
    SepConv,
    SepRepConv,
    SpikeConv,
)
from models.neuron import ILIFNode

NEURONS = {"coco": partial(ILIFNode, 4, 0.25, 1.0), "gen1": partial(ILIFNode, 4, 0.5, 0.5)}
BN_GAIN = {"coco": 1.0, "gen1": 1.8}

#: The authors' block, with the channels its figures were made with.
BLOCKS = {
    "BNAndPadLayer": lambda neuron: BNAndPad(8),
    "RepConv": lambda neuron: RepConv(8, 12),
    "SepRepConv": lambda neuron: SepRepConv(8, 12),
    "SepConv": lambda neuron: SepConv(neuron, 8),
    "MS_ConvBlock_3_7": lambda neuron: ConvBlock(neuron, 8, 3),
    "MS_AllConvBlock_4_7": lambda neuron: AllConvBlock(neuron, 8, 4),
    "MS_DownSampling_first": lambda neuron: Downsample(neuron, 3, 8, stem=True),
    "MS_DownSampling": lambda neuron: Downsample(neuron, 8, 12),
    "MS_StandardConv_3_2": lambda neuron: SpikeConv(neuron, 8, 12, 3, stride=2),
    "MS_StandardConv_1_1": lambda neuron: SpikeConv(neuron, 8, 12, 1),
    "SpikeConv_3": lambda neuron: SpikeConv(neuron, 8, 12, 3),
    "SpikeConvWithoutBN_1": lambda neuron: SpikeConv(neuron, 8, 12, 1, bias=True),
    "SpikeSPPF": lambda neuron: SPPF(neuron, 8, 12),
}


def load(block: nn.Module, tag: str, info: dict, rule, gain: float) -> dict[str, str]:
    """Fill the block with the rule's weights, strictly; returns the authors' names -> ours."""
    ours = {theirs: name for name, theirs in tensor_names(block).items()}
    assert set(ours) == {key for key, _ in info["keys"]}
    state: dict[str, Tensor] = {
        ours[key]: torch.as_tensor(rule.tensor_for(f"blk.{tag}.{key}", shape, gain, 0.1))
        for key, shape in info["keys"]
    }
    block.load_state_dict(state)
    return ours


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("tag", BLOCKS)
@pytest.mark.parametrize("code", NEURONS)
def test_golden_block(golden, rule, code, tag, mode):
    figures = golden(f"spikeyolo/blocks_{code}.npz")
    info = json.loads(str(figures["info"]))[tag]
    block = BLOCKS[tag](NEURONS[code]).double().train(mode == "train")
    ours = load(block, tag, info, rule, BN_GAIN[code])
    x = torch.tensor(1.5 * rule.cotangent(f"block:{tag}", info["input_shape"]), requires_grad=True)
    out = block(x)
    (out * torch.tensor(rule.cotangent(f"blockout:{tag}", tuple(out.shape)))).sum().backward()

    close = partial(torch.testing.assert_close, rtol=0, atol=1e-9)
    close(out.detach(), torch.tensor(figures[f"{tag}.{mode}.out"]))
    close(x.grad, torch.tensor(figures[f"{tag}.{mode}.grad_x"]))
    parameters = dict(block.named_parameters())
    with_gradient = set()
    for theirs, name in ours.items():
        if name in parameters:
            expected = torch.tensor(figures[f"{tag}.{mode}.grad.{theirs}"])
            close(parameters[name].grad, expected, msg=lambda m, theirs=theirs: f"{theirs}: {m}")
            with_gradient.add(name)
    assert with_gradient == set(parameters)
    if mode == "train":
        buffers = dict(block.named_buffers())
        prefix = f"{tag}.after."
        after = [key.removeprefix(prefix) for key in figures.files if key.startswith(prefix)]
        for theirs in after:
            close(buffers[ours[theirs]], torch.tensor(figures[prefix + theirs]))
        assert len(after) == sum("running" in name for name in buffers)


def test_border_is_batch_norm_of_zero_and_carries_no_gradient():
    layer = BNAndPad(2).double().eval()
    layer.bn.running_mean.copy_(torch.tensor([0.5, -1.0]))
    layer.bn.running_var.copy_(torch.tensor([4.0, 0.25]))
    nn.init.constant_(layer.bn.bias, 0.75)
    padded = layer(torch.zeros(1, 2, 3, 3, dtype=torch.float64))
    assert padded.shape == (1, 2, 5, 5)
    expected = layer.bn(torch.zeros(1, 2, 5, 5, dtype=torch.float64))
    torch.testing.assert_close(padded, expected)
    border = padded[..., 0, :].sum()
    assert not torch.autograd.grad(border, layer.bn.bias)[0].any()
