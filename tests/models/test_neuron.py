import pytest
import torch
from spikingjelly.activation_based import functional, neuron, surrogate

from models.neuron import ILIFNode

PUBLISHED = {"coco": (0.25, 1.0), "gen1": (0.5, 0.5)}
TAGS = ["edges", "edgesT3", "rand_T1", "rand_T4", "rand_T8"]
BACKENDS = ["torch", "spikingjelly"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("code", PUBLISHED)
def test_golden_spikes_and_gradients(golden, code, tag, backend):
    decay, input_scale = PUBLISHED[code]
    figures = golden(f"spikeyolo/neuron_{code}.npz")
    x = torch.tensor(figures[f"{tag}_x"], requires_grad=True)
    node = ILIFNode(4, decay, input_scale, backend=backend)
    spikes = node(x)
    (spikes * torch.tensor(figures[f"{tag}_cot"])).sum().backward()
    torch.testing.assert_close(spikes.detach(), torch.tensor(figures[f"{tag}_spike"]))
    torch.testing.assert_close(x.grad, torch.tensor(figures[f"{tag}_grad"]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_golden_normalised_spikes_and_gradients(check_nilif, backend):
    check_nilif(backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("max_spikes", [1, 2, 3, 4, 5, 7, 8])
def test_normalised_spikes_are_the_levels_from_0_to_1(max_spikes, backend):
    x = torch.linspace(-1, max_spikes + 1, 400)[None]
    spikes = ILIFNode(max_spikes, backend=backend, normalize=True)(x)
    levels = torch.arange(max_spikes + 1) / max_spikes
    torch.testing.assert_close(spikes.unique(), levels, rtol=1e-6, atol=0)
    assert spikes.max() == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_published_ties_round_to_even_and_window_ends_count(backend):
    x = torch.tensor([[-0.1, 0.0, 0.5, 1.5, 2.5, 3.5, 4.0, 4.1]], requires_grad=True)
    spikes = ILIFNode(4, 0.25, 1.0, backend=backend)(x)
    spikes.sum().backward()
    assert spikes.tolist() == [[0, 0, 0, 2, 2, 4, 4, 4]]
    assert x.grad.tolist() == [[0, 1, 1, 1, 1, 1, 1, 0]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_membrane_by_hand(backend):
    node = ILIFNode(4, decay=0.5, input_scale=0.5, backend=backend)
    spikes = node(torch.tensor([[3.0], [3.0], [20.0]], dtype=torch.float64))
    # U = 1.5 -> 2; U = .5 * (1.5 - 2) + 1.5 = 1.25 -> 1; U = .5 * .25 + 10 = 10.125 -> 4
    assert spikes.flatten().tolist() == [2, 1, 4]
    assert node.v.item() == pytest.approx(6.125)


@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("time_steps", [1, 5])
@pytest.mark.parametrize("max_spikes", [1, 4])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_spikingjelly(backend, normalize, max_spikes, time_steps, detach_reset):
    """Forward, backward through every step, and the carried state; D = 1 is a binary LIF."""
    torch.manual_seed(0)
    x = torch.randn(time_steps, 3, 50, dtype=torch.float64) * 2
    cotangent = torch.randn_like(x)
    oracle = neuron.ILIFNode(
        tau=4 / 3,
        surrogate_function=surrogate.MultiLevelSpikeCount(max_spikes),
        detach_reset=detach_reset,
        step_mode="m",
    )
    node = ILIFNode(max_spikes, 0.25, 1.0, detach_reset, backend, normalize)
    results = []
    for module in (oracle, node):
        leaf = x.clone().requires_grad_()
        spikes = module(leaf)
        if normalize and module is oracle:
            spikes = spikes / max_spikes
        loss = (spikes * cotangent).sum() + (module.v * cotangent[0]).sum()
        loss.backward()
        results.append((spikes.detach(), module.v.detach(), leaf.grad))
    assert results[0][0].max() == (1 if normalize else max_spikes)
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_state_is_carried_until_reset(backend, normalize):
    torch.manual_seed(0)
    x = torch.randn(6, 40, dtype=torch.float64) * 2
    node = ILIFNode(4, 0.5, 0.5, backend=backend, normalize=normalize)
    whole = node(x)
    node.reset()
    halves = torch.cat([node(x[:3]), node(x[3:])])
    assert torch.equal(halves, whole)
    assert not torch.equal(node(x), whole)
    functional.reset_net(node)
    assert node.v is None
    assert torch.equal(node(x), whole)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_keeps_a_float32_state(backend, normalize, dtype):
    x = (torch.randn(4, 100) * 2).to(dtype).requires_grad_()
    node = ILIFNode(4, 0.25, 1.0, backend=backend, normalize=normalize)
    spikes = node(x)
    spikes.sum().backward()
    assert node.v.dtype == torch.float32
    assert spikes.dtype == x.grad.dtype == dtype
    exact = ILIFNode(4, 0.25, 1.0, normalize=normalize)(x.detach().float())
    assert torch.equal(spikes.float(), exact)


def test_the_input_is_not_modified():
    x = torch.randn(3, 20)
    before = x.clone()
    ILIFNode(4, 0.5, 0.5)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_spikes": 0},
        {"max_spikes": 1.5},
        {"decay": -0.1},
        {"decay": 1.1},
        {"backend": "numpy"},
        {"decay": 1.0, "backend": "spikingjelly"},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is|needs decay"):
        ILIFNode(**settings)


def test_another_batch_size_without_reset_is_refused():
    node = ILIFNode()
    node(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match=r"shape \(3, 4\), the input needs \(5, 4\)"):
        node(torch.zeros(2, 5, 4))
