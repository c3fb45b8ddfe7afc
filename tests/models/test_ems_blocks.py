"""The neuron of EMS-YOLO and every block against the authors', in evaluation and training."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from models.authors import tensor_names
from models.detector import Upsample
from models.ems.blocks import RealConv, ems_block1, ems_block2, ms_block
from models.ems.neuron import LeakySiLU, LIFNode

silu = partial(LeakySiLU, in_place=False)
close = partial(torch.testing.assert_close, rtol=0, atol=1e-9)


class SewBlock(nn.Module):
    """Their block that adds outputs of neurons, not membranes; no network of theirs here has it."""

    def __init__(self) -> None:
        super().__init__()
        self.cv1, self.cv2 = RealConv(6, 4, 3, 2, act=silu), RealConv(4, 8, 3, act=silu)
        self.shortcut = RealConv(6, 8, 1, 2)

    def forward(self, x):
        return self.cv2(self.cv1(x)) + self.shortcut(x)


#: The authors' block, with the channels its figures were made with.
BLOCKS = {
    "Conv_1_stem7x7": RealConv(3, 8, 7, 2),
    "Conv_2_stem3x3": RealConv(3, 8, 3, 2),
    "Conv_silu_head": RealConv(6, 8, 3, act=silu),
    "BasicBlock_2_identity": ems_block1(LIFNode, 6, 6),
    "BasicBlock_2_down": ems_block1(LIFNode, 6, 8, stride=2),
    "BasicBlock_2_k1": ems_block1(LIFNode, 8, 4, kernel=1),
    "BasicBlock_1_hidden1024": ems_block1(LIFNode, 6, 4, hidden=1024),
    "Concat_res2_down": ems_block2(LIFNode, 6, 10, stride=2, hidden=10),
    "Concat_res2_flat": ems_block2(LIFNode, 6, 10, hidden=10),
    "ConcatBlock_ms_down": ems_block2(LIFNode, 6, 12, stride=2),
    "ConcatBlock_ms_flat": ems_block2(LIFNode, 6, 12),
    "BasicBlock_ms_identity": ms_block(LIFNode, 8, 8),
    "BasicBlock_ms_proj": ms_block(LIFNode, 12, 8),
    "BasicBlock_ms_proj_k1": ms_block(LIFNode, 8, 4, kernel=1),
    "BasicBlock_sew": SewBlock(),
}


@pytest.fixture(scope="module")
def figures(golden):
    return golden("ems_yolo/ems_blocks.npz")


LIF_CASES = ("lif_T1", "lif_T4", "lif_T5", "lif_edges_T1", "lif_trace_T6")
SILU_CASES = ("silulif_T1", "silulif_T4", "silulif_T5")


@pytest.mark.parametrize("case", LIF_CASES + SILU_CASES)
def test_golden_neuron(figures, case):
    node = LIFNode() if case in LIF_CASES else LeakySiLU(in_place=False)
    x, gy, y, gx = (torch.tensor(figures[f"{case}/{name}"]) for name in ("x", "gy", "y", "gx"))
    spikes = node(x.requires_grad_())
    spikes.backward(gy)
    if case in LIF_CASES:
        assert torch.equal(spikes.detach(), y)
    close(spikes.detach(), y)  # silu's exponential differs in the last digit from CPU to CPU
    close(x.grad, gx)


@pytest.mark.parametrize("neuron", [LIFNode, LeakySiLU])
def test_carried_state_makes_two_halves_one_run(neuron):
    x = torch.randn(6, 50, dtype=torch.float64).requires_grad_()
    whole, node = neuron()(x), neuron()
    halves = torch.cat([node(x[:2]), node(x[2:])])
    assert torch.equal(whole, halves)
    cotangent = torch.randn_like(x)
    close(*(torch.autograd.grad(y, x, cotangent)[0] for y in (whole, halves)))


def test_what_only_the_integer_neuron_runs_on_is_refused():
    with pytest.raises(ValueError, match="backend is 'spikingjelly', the binary LIF has one of"):
        LIFNode(backend="spikingjelly")


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("tag", BLOCKS)
def test_golden_block(figures, ems_rule, ems_json, tag, mode):
    block = copy.deepcopy(BLOCKS[tag]).double().train(mode == "train")
    theirs = {
        ours: name.replace("shortcut.conv", "shortcut.0").replace("shortcut.bn", "shortcut.1")
        for ours, name in tensor_names(block).items()
    }
    keys = ems_json("ems_blocks_keys")[tag]
    assert {f"{tag}.{name}" for name in theirs.values()} == set(keys)
    state = {
        name: ems_rule.tensor(f"{tag}.{their}", tuple(keys[f"{tag}.{their}"]))
        for name, their in theirs.items()
    }
    block.load_state_dict(
        {name: torch.zeros((), dtype=torch.long) if a is None else torch.tensor(a)
         for name, a in state.items()}
    )  # fmt: skip
    prefix = f"{tag}/train" if mode == "train" else tag
    x = torch.tensor(figures[f"{prefix}/x"], requires_grad=True)
    y = block(x)
    y.backward(torch.tensor(figures[f"{prefix}/gy"]))
    close(y.detach(), torch.tensor(figures[f"{prefix}/y"]))
    close(x.grad, torch.tensor(figures[f"{prefix}/gx"]))
    norms, after = (
        {k.rpartition("/")[2]: figures[k] for k in figures.files if k.startswith(start)}
        for start in (f"{prefix}/gnorm/", f"{prefix}/after/")
    )
    assert len(norms) == len(list(block.parameters()))
    for name, parameter in block.named_parameters():
        norm, _ = norms[theirs[name]]
        assert parameter.grad.norm().item() == pytest.approx(norm, rel=1e-11, abs=1e-9), name
    if mode == "train":
        running = {n: b for n, b in block.named_buffers() if "running" in n}
        assert {theirs[name] for name in running} == set(after)
        for name, buffer in running.items():
            close(buffer, torch.tensor(after[theirs[name]]))


def test_golden_upsampling(figures):
    assert torch.equal(
        Upsample()(torch.tensor(figures["Sample/x"])), torch.tensor(figures["Sample/y"])
    )
