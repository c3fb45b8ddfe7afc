"""NIR: what it can say is said exactly, the rest refused with the reason."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.blocks import per_step
from models.detector import DetectorNetwork
from models.ems.blocks import ms_block
from models.ems.head import AnchorDetect
from models.ems.network import EMSConfig
from models.ems.neuron import LIFNode
from models.export.nir_graph import nir_graph
from models.export.trace import trace

nir = pytest.importorskip("nir")


class Plain(DetectorNetwork):
    """A stem, a residual block and a head on one scale: no pool, no upsampling."""

    def __init__(self) -> None:
        super().__init__(EMSConfig(in_channels=2, num_classes=2, time_steps=3))
        torch.manual_seed(0)
        self.stem = nn.Conv2d(2, 6, 3, 2, 1)
        self.block = ms_block(lambda: LIFNode(0.25), 6, 6)
        for conv in (self.block.conv1, self.block.conv2):
            conv.bn = nn.Identity()
        self.head = AnchorDetect((6, 6), 2, self.config.anchors)
        self.carry_state = False

    def forward(self, x):
        x = self.block(per_step(self._start(x), self.stem))
        return [per_step(x, self.head.convs[0]).mean(0)]


def euler(graph, x):
    """NIR as its equations say, a step of dt = 1 per bin of x [T, C, H, W]; mean of map0."""
    values, v, total = {}, {}, 0.0
    order: list[str] = []
    while len(order) < len(graph.nodes):  # files keep them by name
        ready = {b for _, b in graph.edges} - {b for a, b in graph.edges if a not in order}
        order += sorted((ready | {"input"}) - set(order))
    for step in x:
        for name in order:
            node = graph.nodes[name]
            given = sum((values[a] for a, b in graph.edges if b == name), torch.zeros(()))
            if isinstance(node, nir.Input):
                given = step
            elif isinstance(node, nir.Conv2d):
                weight, bias = torch.tensor(node.weight), torch.tensor(node.bias)
                shape = node.stride, node.padding, node.dilation, int(node.groups)
                given = F.conv2d(given[None], weight, bias, *map(_plain, shape))[0]
            elif isinstance(node, nir.LIF):
                tau, r = torch.tensor(node.tau), torch.tensor(node.r)
                u = v.get(name, torch.zeros_like(given))
                u = u + (-u + r * given) / tau
                given = (u > torch.tensor(node.v_threshold)).double()
                v[name] = torch.where(given == 1, torch.tensor(node.v_reset), u)
            elif isinstance(node, nir.Scale):
                given = given * torch.tensor(node.scale)
            values[name] = given
        total = total + values["map0"] / len(x)
    return total


def _plain(value):
    return tuple(int(v) for v in value) if np.ndim(value) else int(value)


def test_a_plain_network_is_said_exactly(tmp_path):
    network = Plain().double().eval().requires_grad_(False)
    x = torch.poisson(torch.full((3, 1, 2, 32, 32), 1.0, dtype=torch.float64))
    graph = nir_graph(trace(network, (32, 32)))
    nir.write(tmp_path / "plain.nir", graph)
    read = nir.read(tmp_path / "plain.nir")
    (expected,) = network(x)
    torch.testing.assert_close(euler(read, x[:, 0]), expected[0], rtol=0, atol=1e-9)
    assert read.metadata["maps"] == "mean over the steps of each output"


@pytest.mark.parametrize(
    ("name", "overrides", "reason"),
    [
        ("spikeyolo-p", {}, "spikes are counts up to 4"),
        ("spikeyolo-p", {"activation": "lif-soft", "max_spikes": 1}, "the reset subtracts"),
        ("spikeyolo-p", {"activation": "relu"}, "no ReLU"),
        ("ems-res10", {}, "cannot concatenate channels"),
        ("ems-resnet10", {}, "no max pool"),
    ],
)
def test_what_nir_cannot_say_is_refused(fires, name, overrides, reason):
    with pytest.raises(ValueError, match=f"{reason}.*use --format onnx or golden"):
        nir_graph(trace(fires(name, **overrides), (32, 32)))
