"""Every block of Spike2Former against the authors', in evaluation and training."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.blocks import BatchNorm, BNAndPad, RepConv
from models.spike2former.backbone import (
    ConvBlock,
    LinearAttention,
    SepConv,
    SpikingTransformerBlock,
    TransformerBlock,
    WideAttention,
)
from models.spike2former.blocks import ESC, MLP, RealConv, Synapse
from models.spike2former.decoder import Attention, DecoderLayer, DecoderMLP, sine_positions
from models.spike2former.head import MaskEmbedding
from models.spike2former.pixel_decoder import (
    DeformableAttention,
    EncoderLayer,
    EncoderMLP,
    PixelDecoder,
)
from models.spike2former.sampling import sample
from tests.models.spike2former.conftest import (
    Probe,
    blocks_of,
    check_stored_gradients,
    figures_of,
    theirs,
)

FILES = (
    "blocks_backbone",
    "blocks_espikeformer",
    "blocks_encoder",
    "blocks_decoder",
    "pixel_decoder",
)
CASES = [(file, block) for file in FILES for block in blocks_of(file)]


class Sampling(nn.Module):
    """The sampling alone, on maps whose channels are last."""

    def forward(self, values: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        maps = (x.permute(0, 3, 1, 2).contiguous() for x in (values, offset, weight))
        return sample(*maps).permute(0, 2, 3, 1)


def build(block: str) -> nn.Module:
    """Ours, of the sizes the figures were made with."""
    axes = "aligned" if block.endswith("_aligned") else "published"
    makers: dict[str, Callable[[], nn.Module]] = {
        "down_first": lambda: RealConv(2, 8, 7, 2, bias=True),
        "down": lambda: Synapse(theirs, 8, 12, 3, 2, bias=True),
        "down_keep": lambda: Synapse(theirs, 8, 12, 3, bias=True),
        "sepconv": lambda: SepConv(theirs, 8),
        "convblock": lambda: ConvBlock(theirs, 8),
        "bnpad": lambda: BNAndPad(8, norm=BatchNorm),
        "rep": lambda: RepConv(8, 12, norm=BatchNorm),
        "attention": lambda: LinearAttention(theirs, 16, 4),
        "mlp": lambda: MLP(theirs, 16, 64),
        "block": lambda: TransformerBlock(theirs, 16, 4),
        "esf_sepconv": lambda: ESC(theirs, 8, 7),
        "esf_attention": lambda: WideAttention(theirs, 16, 4),
        "esf_block": lambda: SpikingTransformerBlock(theirs, 16, 4),
        "esc3": lambda: ESC(theirs, 16, 3),
        "esc5": lambda: ESC(theirs, 16, 5),
        "dcn_core": Sampling,
        "dcn": lambda: DeformableAttention(theirs, 16, 4, axes),
        "enc_mlp": lambda: EncoderMLP(theirs, 16, 48, axes),
        "enc_layer": lambda: EncoderLayer(theirs, 16, 48, 4, axes),
        "self_attention": lambda: Attention(theirs, 16, 4),
        "cross_attention": lambda: Attention(theirs, 16, 4),
        "ffn": lambda: DecoderMLP(theirs, 16, 48, axes),
        "dec_layer": lambda: DecoderLayer(theirs, 16, 48, 4, axes),
        "mask_mlp": lambda: MaskEmbedding(theirs, 16, 4.0),
        "pixel_decoder": lambda: PixelDecoder(theirs, (8, 16, 32, 80), 32, 2, 64, 8, axes),
    }
    return makers[block.removesuffix("_aligned")]()


def channels_first(x: Tensor) -> Tensor:
    """Maps [T, B, H, W, C] -> [T, B, C, H, W]."""
    return x.permute(0, 1, 4, 2, 3)


def as_map(tokens: Tensor) -> Tensor:
    """[..., N, C] -> [..., C, N, 1]."""
    return tokens.transpose(-1, -2)[..., None]


def as_tokens(x: Tensor) -> Tensor:
    return x[..., 0].transpose(-1, -2)


def attend(block: Attention, x: dict[str, Tensor]) -> Tensor:
    """Of queries alone, or of queries and a map."""
    alone = "x" in x
    query, memory = (x["x"], x["x"]) if alone else (x["query"], x["memory"])
    query_place, map_place = (x["pos"], x["pos"]) if alone else (x["query_pos"], x["key_pos"])
    return block(as_map(query + query_place), as_map(memory + map_place), as_map(memory))


def call(name: str, block: nn.Module, x: dict[str, Tensor]) -> list[Tensor]:
    """What the block makes of the figures' inputs, in the figures' layouts."""
    first = next(iter(x.values()))
    if isinstance(block, PixelDecoder):
        memory: list[Tensor] = []  # theirs: the spikes of the encoder's result
        block.leave.neuron.register_forward_hook(lambda _node, _x, y: memory.append(y))
        feature, out = block([*x.values()])
        return [feature, *memory, *out]
    if isinstance(block, DecoderLayer):
        y = as_tokens(block(*map(as_map, x.values())))
    elif isinstance(block, Attention):
        y = as_tokens(attend(block, x))
    elif isinstance(block, MaskEmbedding):  # levels come first
        y = as_tokens(block(as_map(first.flatten(0, 1)))).unflatten(0, first.shape[:2])
    elif isinstance(block, DecoderMLP):
        y = as_tokens(block(as_map(first)))
    elif isinstance(block, DeformableAttention | EncoderMLP | EncoderLayer) or name in (
        "esc3",
        "esc5",
    ):
        y = block(channels_first(first)).permute(0, 1, 3, 4, 2)
    else:
        y = block(*x.values())
    return [y]


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize(("file", "block"), CASES)
def test_golden_block(figures, s2f_rule, fill, file, block, mode):
    stored, said = figures(file), blocks_of(file)[block]
    module, drawn_as = build(block), block
    names = fill(module, f"blk.{drawn_as}.", said["keys"], alone=block.startswith("down"))
    module.train(mode == "train")
    x = {
        name: torch.tensor(s2f_rule.inp(f"{drawn_as}:{name}", shape)).requires_grad_()
        for name, shape in said["inputs"].items()
    }
    outputs = call(block, module, x)
    cotangents = [torch.tensor(s2f_rule.cot(f"{drawn_as}:{i}", tuple(y.shape)))
                  for i, y in enumerate(outputs)]  # fmt: skip
    torch.autograd.backward(outputs, cotangents)
    at = f"{block}|{mode}"
    for i, y in enumerate(outputs):
        Probe(stored, f"{at}|out{i}").check(y)
    for name, leaf in x.items():
        Probe(stored, f"{at}|grad_in|{name}").check(leaf.grad)
    gradients = {names[ours]: p.grad for ours, p in module.named_parameters()}
    check_stored_gradients(stored, at, gradients)
    if mode == "train":
        buffers = {names[ours]: b for ours, b in module.named_buffers() if "running" in ours}
        for name, buffer in buffers.items():
            Probe(stored, f"{block}|after|{name}").check(buffer)


SINES = [key for key in figures_of("blocks_decoder") if key.startswith("sine|")]


@pytest.mark.parametrize("key", SINES)
def test_golden_sine(figures, key):
    _, size, features = key.split("|")
    H, W = map(int, size.split("x"))
    found = sine_positions(H, W, 2 * int(features))
    wanted = torch.tensor(figures("blocks_decoder")[key])[0]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
