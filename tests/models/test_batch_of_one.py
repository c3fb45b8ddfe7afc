"""A batch norm of one sample on a CPU: what torch gets wrong, and that no network meets it."""

import copy

import pytest
import torch
from torch import nn

from models import build_model

SHAPE = (1, 4, 3, 5)
CONTIGUOUS, ONE_STEP = (60, 15, 5, 1), (4, 1, 20, 4)  # ONE_STEP: channels last but for axis 0


def input_gradient(x_strides, gradient_strides):
    generator = torch.Generator().manual_seed(0)
    x, gradient = (
        torch.empty_strided(SHAPE, strides).copy_(torch.randn(SHAPE, generator=generator))
        for strides in (x_strides, gradient_strides)
    )
    nn.BatchNorm2d(4)(x.requires_grad_()).backward(gradient)
    return x.grad


@pytest.mark.parametrize("strides", [(CONTIGUOUS, ONE_STEP), (ONE_STEP, CONTIGUOUS)])
def test_torch_still_mistakes_the_strides_of_one_sample(strides):
    """When this fails torch has mended it: `per_step` need not make anything contiguous."""
    wrong = (input_gradient(*strides) - input_gradient(CONTIGUOUS, CONTIGUOUS)).abs().max()
    assert wrong > 0.1


@pytest.mark.parametrize("activation", ["ilif", "relu"])
@pytest.mark.parametrize("name", ["spikeyolo-p", "ems-res10"])
def test_channels_last_has_the_gradients_of_contiguous_maps(events, name, activation):
    torch.manual_seed(0)
    model = build_model(name, variant="gen1", time_steps=1, activation=activation).double()
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        network = copy.deepcopy(model).to(memory_format=memory_format)
        losses = network.criterion({})(
            network(events(1, 1, 2, 64, 96)), torch.tensor([[0, 1, 4.0, 4, 40, 40]])
        )
        sum(losses.values()).backward()
        gradients.append({name: p.grad for name, p in network.named_parameters()})
    for name, expected in gradients[0].items():
        largest = max(expected.abs().max().item(), 1e-3)
        torch.testing.assert_close(
            gradients[1][name], expected, rtol=0, atol=1e-8 * largest, msg=name
        )
