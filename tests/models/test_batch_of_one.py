"""Gradients of a batch of one, channels last, on a CPU: torch's batch norm gets them wrong."""

import pytest
import torch
from torch import Tensor, nn

from models import build_model
from models.blocks import BatchNorm

NETWORKS = {
    "spikeyolo-p": ("ilif", "relu"),
    "ems-res10": ("lif", "ilif", "relu"),
}


def gradients(norm: nn.BatchNorm2d) -> Tensor:
    """Of a sum over y * g, g of strides (C, 1, W*C, C), to x [1, 6, 4, 5]."""
    torch.manual_seed(0)
    x = torch.randn(1, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    g = torch.empty_strided(x.shape, (6, 1, 5 * 6, 6), dtype=x.dtype).copy_(torch.randn(x.shape))
    norm.double()(x).backward(g)
    assert x.grad is not None
    return x.grad


def test_torch_still_needs_the_repair():
    """Once it does not, models.blocks.BatchNorm can go."""
    assert not torch.allclose(gradients(nn.BatchNorm2d(6)), gradients(BatchNorm(6)))


def test_repaired_gradient_is_that_of_the_equation():
    torch.manual_seed(0)
    x = torch.randn(1, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0, keepdim=True)
    ((x - mean) / torch.sqrt(variance + 1e-5)).backward(torch.randn(x.shape))
    torch.testing.assert_close(gradients(BatchNorm(6)), x.grad, rtol=0, atol=1e-12)


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
