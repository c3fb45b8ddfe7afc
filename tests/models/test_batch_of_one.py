"""Gradients of a batch or column of one on a CPU: torch's batch norm gets them wrong."""

import pytest
import torch
from torch import Tensor, nn

from models import build_model
from models.blocks import BatchNorm

NETWORKS = {
    "spikeyolo-p": ("ilif", "relu"),
    "ems-res10": ("lif-hard", "ilif", "relu"),
}


C, H, W = 6, 4, 5
STRIDES = {
    "contiguous": (C * H * W, H * W, W, 1),
    "channels last": (C * H * W, 1, W * C, C),
    "N left out": (C, 1, W * C, C),
}
MISTAKEN = [
    ("contiguous", "channels last, N left out"),
    ("channels last, N left out", "contiguous"),
]


def error(norm: nn.BatchNorm2d, x_layout: str, grad_layout: str) -> float:
    """How far the gradient to x [1, C, H, W] is from that of the equation."""
    torch.manual_seed(0)
    x, g = torch.randn(2, 1, C, H, W, dtype=torch.float64)
    truth = x.clone().requires_grad_()
    variance, mean = torch.var_mean(truth, (0, 2, 3), correction=0, keepdim=True)
    ((truth - mean) / torch.sqrt(variance + norm.eps)).backward(g)

    def laid_out(tensor: Tensor, layout: str) -> Tensor:
        return torch.empty_strided(tensor.shape, STRIDES[layout], dtype=x.dtype).copy_(tensor)

    leaf = laid_out(x, x_layout).requires_grad_()
    norm.double()(leaf).backward(laid_out(g, grad_layout))
    assert leaf.grad is not None
    assert truth.grad is not None
    return (leaf.grad - truth.grad).abs().max().item()


@pytest.mark.parametrize("layouts", [("contiguous", "N left out"), ("N left out", "contiguous")])
def test_torch_still_needs_the_repair(layouts):
    """Once it does not, models.blocks.BatchNorm can go."""
    assert error(nn.BatchNorm2d(C), *layouts) > 1


@pytest.mark.parametrize("grad_layout", STRIDES)
@pytest.mark.parametrize("x_layout", STRIDES)
def test_every_layout_gives_the_gradient_of_the_equation(x_layout, grad_layout):
    assert error(BatchNorm(C), x_layout, grad_layout) < 1e-12


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (0, 3, 2, 1), (2, 0, 3, 1)])
@pytest.mark.parametrize("shape", [(4, 6, 5, 1), (4, 6, 1, 5), (1, 6, 5, 1)])
def test_tokens_in_any_order_give_the_gradient_of_the_equation(shape, order):
    torch.manual_seed(0)
    x, g = torch.randn(2, *shape, dtype=torch.float64)
    back = [order.index(axis) for axis in range(4)]
    norm = BatchNorm(6).double()
    found = []
    for layout in (lambda t: t, lambda t: t.permute(order).contiguous().permute(back)):
        leaf = x.clone().requires_grad_()
        norm(leaf).backward(layout(g))
        found.append(leaf.grad)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "activation"), [(name, a) for name, kinds in NETWORKS.items() for a in kinds]
)
def test_networks_learn_the_same_in_both_layouts(name, activation):
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        options = {"in_channels": 2, "time_steps": 1, "activation": activation}
        model = build_model(name, variant="gen1", **options).double().to(memory_format=layout)
        maps = model(torch.arange(2.0 * 64 * 96).double().sin().view(1, 1, 2, 64, 96).abs())
        sum(raw.square().sum() for raw in maps).backward()
        found.append({key: p.grad for key, p in model.named_parameters()})
    for key, expected in found[0].items():
        torch.testing.assert_close(found[1][key], expected, rtol=1e-6, atol=1e-6, msg=key)
