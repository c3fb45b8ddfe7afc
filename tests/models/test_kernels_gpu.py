"""The I-LIF kernels on a GPU, through CuPy: `pytest -m gpu`."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from models import build_model
from models.ems.neuron import LIFFunction
from models.kernels.ilif import ilif
from models.kernels.launch import SCALARS
from models.neuron import ILIFFunction, ILIFNode

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
GIB = 2**30


def torch_neuron(
    x: Tensor, v: Tensor | None, *settings, spike_value: float = 1.0
) -> tuple[Tensor, Tensor]:
    if v is None:
        v = torch.zeros_like(x[0], dtype=SCALARS[x.dtype][1])
    return ILIFFunction.apply(x, v, *settings, spike_value)


def run(function, x: Tensor, v: Tensor | None, weights: tuple[Tensor, Tensor], *settings):
    """Spikes, final state and the gradients of x and v."""
    leaves = [p.detach().clone().requires_grad_() for p in (x, v) if p is not None]
    spikes, state = function(leaves[0], *(leaves[1:] or [None]), *settings)
    return spikes, state, *torch.autograd.grad((spikes, state), leaves, weights)


def draw(shape: tuple[int, ...], dtype: torch.dtype, device: str = "cuda") -> Tensor:
    """Half ordinary values, half eighths: ties, and membranes at the window's ends."""
    x = torch.randn(shape, device=device, dtype=torch.float64) * 3
    return torch.where(torch.rand(shape, device=device) < 0.5, x, (x * 8).round() / 8).to(dtype)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("T", range(1, 17))
@pytest.mark.parametrize("dtype", SCALARS)
def test_equals_the_torch_neuron(dtype, T, normalize):
    """Bit for bit; and float64 but where rounding moves a membrane over an edge of the window."""
    torch.manual_seed(T)
    membrane = SCALARS[dtype][1]
    for case, size in enumerate([1, 7, 1024, 1025, 40_003, 1_000_000]):
        settings = (case % 8 + 1, (0.25, 0.5)[case & 1], (1.0, 0.5)[case & 1], bool(case & 2))
        x = draw((T, size), dtype)
        v = draw((size,), membrane) if case & 1 else None
        weights = (torch.randn_like(x), torch.randn(size, device="cuda", dtype=membrane))
        value = 1 / settings[0] if normalize else 1.0
        fast, slow = (partial(one, spike_value=value) for one in (ilif, torch_neuron))
        ours, truth = (run(one, x, v, weights, *settings) for one in (fast, slow))
        for mine, theirs in zip(ours, truth, strict=True):
            assert torch.equal(mine, theirs)
    upcast = [p.double() for p in (x, v, *weights)]
    precise = run(slow, *upcast[:2], tuple(upcast[2:]), *settings)
    counts, exact_counts = ((p[0].double() / value).round() for p in (ours, precise))
    assert (counts == exact_counts).double().mean() > 0.9999
    for mine, exact in zip(ours[2:], precise[2:], strict=True):
        tolerance = 4 * torch.finfo(mine.dtype).eps * exact.abs().clamp(min=1)
        assert ((mine.double() - exact).abs() <= tolerance).double().mean() > 0.999


@pytest.mark.parametrize("T", range(1, 17))
@pytest.mark.parametrize("dtype", SCALARS)
def test_the_binary_neuron_equals_torchs(dtype, T):
    torch.manual_seed(T)
    membrane = SCALARS[dtype][1]
    for size in (1, 1025, 40_003, 1_000_000):
        x, v = draw((T, size), dtype) / 3, draw((size,), membrane)
        weights = (torch.randn_like(x), torch.randn_like(v))
        ours = run(partial(ilif, hard_reset=True), x, v, weights, 1, 0.25)
        for mine, theirs in zip(ours, run(LIFFunction.apply, x, v, weights, 0.25), strict=True):
            assert torch.equal(mine, theirs)


def layouts(x: Tensor) -> dict[str, Tensor]:
    T, B = x.shape[:2]
    channels_last = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return {
        "contiguous": x,
        "channels_last": channels_last.unflatten(0, (T, B)),
        "misaligned": torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x),
        "permuted": x.permute(0, 4, 1, 3, 2).contiguous().permute(0, 2, 4, 3, 1),
        "batch first": x.transpose(0, 1).contiguous().transpose(0, 1),
    }


@pytest.mark.parametrize("dtype", SCALARS)
def test_layouts(dtype):
    torch.manual_seed(0)
    shape = (3, 2, 24, 9, 12)
    weights = (torch.randn(shape, device="cuda").to(dtype), draw(shape[1:], SCALARS[dtype][1]))
    for name, x in layouts(draw(shape, dtype)).items():
        ours = run(ilif, x, None, weights, 4, 0.25, 1.0, True)
        truth = run(torch_neuron, x, None, weights, 4, 0.25, 1.0, True)
        for mine, theirs in zip(ours, truth, strict=True):
            assert torch.equal(mine, theirs), name


def test_the_current_stream_is_respected():
    """Behind a long computation on a side stream, the kernel sees what that computed."""
    stream = torch.cuda.Stream()
    x = torch.zeros(4, 1_000_000, device="cuda")
    big = torch.randn(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(20):
            big = (big @ big).clamp(-1, 1)
        x.fill_(3)
        spikes, _ = ilif(x)
    stream.synchronize()
    assert torch.equal(spikes, torch_neuron(x, None, 4, 0.25, 1.0, True)[0])
    assert spikes.max() == 3


def test_replays_in_a_cuda_graph():
    x = draw((4, 4096), torch.bfloat16)
    ilif(x)  # compiled before capture
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        spikes, _ = ilif(x)
    x.copy_(draw((4, 4096), torch.bfloat16))
    graph.replay()
    assert torch.equal(spikes, torch_neuron(x, None, 4, 0.25, 1.0, True)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_amp_and_channels_last(dtype):
    convolution = nn.Conv2d(8, 16, 3).cuda().to(memory_format=torch.channels_last)
    x = torch.randn(8, 8, 20, 20, device="cuda").to(memory_format=torch.channels_last)
    with torch.autocast("cuda", dtype):
        spikes = ILIFNode(backend="cupy")(convolution(x).unflatten(0, (4, 2)))
    spikes.float().sum().backward()
    assert spikes.dtype == dtype
    assert spikes.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert convolution.weight.grad.isfinite().all()


def test_compiles_without_graph_breaks():
    torch.manual_seed(0)
    node = ILIFNode(backend="auto")
    node.keep_state = False
    x = draw((4, 2, 8, 10, 12), torch.float32).requires_grad_()

    def network(x: Tensor) -> Tensor:
        return node(x * 2).square().sum()

    truth = torch.autograd.grad(network(x), x)[0]
    compiled = torch.compile(network, fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x)[0], truth)


NETWORKS = [("spikeyolo-p", "ilif"), ("spikeyolo-p", "nilif"), ("ems-res10", "lif")]


@pytest.mark.parametrize(("name", "activation"), NETWORKS)
def test_network_and_gradients_equal_those_of_the_torch_backend(name, activation):
    results = []
    for backend in ("torch", "cupy"):
        torch.manual_seed(0)
        settings = {"variant": "gen1", "activation": activation, "backend": backend}
        model = build_model(name, **settings).cuda().double()
        T = model.config.time_steps
        x = torch.poisson(torch.full((T, 2, 2, 64, 64), 0.4, device="cuda")).double()
        maps = model(x)
        sum(m.square().sum() for m in maps).backward()
        results.append([*maps, *(p.grad for p in model.parameters() if p.grad is not None)])
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_checkpointed_stages_give_the_same_gradients():
    results = []
    for again in (False, True):
        torch.manual_seed(0)
        model = build_model("spikeyolo-p", variant="gen1", checkpoint_stages=again).cuda().double()
        maps = model(torch.poisson(torch.full((4, 2, 2, 64, 64), 0.4, device="cuda")).double())
        sum(raw.square().sum() for raw in maps).backward()
        results.append([*maps, *model.buffers(), *(p.grad for p in model.parameters())])
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_the_backward_pass_keeps_one_bit_per_element():
    x = draw((4, 32, 64, 64, 80), torch.bfloat16).requires_grad_()
    before = torch.cuda.memory_allocated()
    spikes, _ = ilif(x, keep_state=False)
    assert torch.cuda.memory_allocated() - before - spikes.nbytes == x.numel() // 8


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_device_while_the_first_is_current():
    x = draw((4, 5000), torch.bfloat16, "cuda:1").requires_grad_()
    spikes, state = ilif(x)
    spikes.sum().backward()
    assert spikes.device == state.device == x.grad.device == torch.device("cuda:1")
    assert torch.equal(spikes, torch_neuron(x, None, 4, 0.25, 1.0, True)[0])
    assert torch.cuda.current_device() == 0


def test_more_elements_than_32_bits_count():
    if torch.cuda.mem_get_info()[0] < 40 * GIB:
        pytest.skip("needs 40 GiB of free GPU memory")
    neurons = 2**31 + 2048
    x = torch.zeros(2, neurons, dtype=torch.bfloat16, device="cuda")
    tail = draw((2, 1000), torch.bfloat16)
    x[:, -1000:] = tail
    spikes, _ = ilif(x.requires_grad_(), keep_state=False)
    assert torch.equal(spikes[:, -1000:], torch_neuron(tail, None, 4, 0.25, 1.0, True)[0])
    assert not spikes[:, :1000].any()
    (gradient,) = torch.autograd.grad(spikes, x, torch.ones_like(spikes))
    tail.requires_grad_()
    torch_neuron(tail, None, 4, 0.25, 1.0, True)[0].sum().backward()
    assert torch.equal(gradient[:, -1000:], tail.grad)
