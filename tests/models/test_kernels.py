"""The CUDA source behind cuda_shim.h, as C++ on the CPU, against the torch neuron: bit for bit."""

import contextlib
import ctypes
import shutil
import subprocess
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.ems.neuron import LIFFunction
from models.kernels import launch
from models.kernels.ilif import ilif, ilif_backward, ilif_forward, steps_layout
from models.neuron import ILIFFunction, ILIFNode

HERE = Path(__file__).parent
KERNELS = ("ilif_forward", "ilif_backward")
DTYPES = list(launch.SCALARS)

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


class Launch(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("first", "blocks", "threads")]


def build(scalar: str, folder: Path) -> ctypes.CDLL:
    """All kernels for one element type, as a shared library."""
    exports = "".join(f"EXPORT({name})\n" for name in KERNELS)
    source = folder / f"{scalar}.cpp"
    source.write_text(f'#include "cuda_shim.h"\n#include "{launch.SOURCE.name}"\n{exports}')
    library = source.with_suffix(".so")
    flags = ["-std=c++17", "-O2", "-ffp-contract=off", "-fno-strict-aliasing", "-shared", "-fPIC"]
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-Wno-unused-function"]
    includes = [f"-I{HERE}", f"-I{launch.SOURCE.parent}"]
    command = ["g++", *flags, *warnings, *includes, f"-DSCALAR={scalar}", "-o", library, source]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    return {scalar: build(scalar, folder) for scalar, _ in launch.SCALARS.values()}


@pytest.fixture(autouse=True)
def kernels_on_cpu(libraries, monkeypatch):
    """compiled(kernel, scalar, T, vectorised, hard_reset) -> what launches it, for CuPy's."""

    def compiled(kernel, scalar, time_steps, vectorised, hard_reset):
        run = getattr(libraries[scalar], f"run_{kernel}")
        run.argtypes = [ctypes.c_int, ctypes.c_bool, ctypes.c_bool, Launch, ctypes.c_void_p]

        def call(grid, block, arguments, first=0):
            cells = [np.array(argument) for argument in arguments]
            pointers = (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells))
            run(time_steps, vectorised, hard_reset, Launch(first, *grid, *block), pointers)

        return call

    monkeypatch.setattr(launch, "compiled", compiled)
    monkeypatch.setattr(launch, "current_stream", lambda _device: contextlib.nullcontext())
    monkeypatch.setattr(launch, "obstacle", lambda _device_type: None)
    return compiled


def same(ours: Tensor | None, truth: Tensor | None) -> None:
    if truth is None or ours is None:
        assert ours is truth
        return
    torch.testing.assert_close(ours, truth, rtol=0, atol=0, equal_nan=True, check_stride=False)


def forward_and_backward(function, x, v, cotangents, settings):
    """Spikes, final state, gradient of x and of v."""
    x = x.detach().requires_grad_()
    v = v if v is None else v.detach().requires_grad_()
    spikes, state = function(x, v, *settings)
    leaves = (x,) if v is None else (x, v)
    kept = [(o, c) for o, c in zip((spikes, state), cotangents, strict=True) if c is not None]
    outputs, weights = zip(*kept, strict=True)
    gradients = torch.autograd.grad(outputs, leaves, weights)
    return spikes, state, *gradients


def torch_neuron(x, v, *settings, spike_value=1.0):
    if v is None:
        v = torch.zeros_like(x[0], dtype=launch.SCALARS[x.dtype][1])
    return ILIFFunction.apply(x, v, *settings, spike_value)


def binary_neuron(x, v, decay):
    return ilif(x, v, 1, decay, hard_reset=True)


def torch_binary_neuron(x, v, decay):
    if v is None:
        v = torch.zeros_like(x[0], dtype=launch.SCALARS[x.dtype][1])
    return LIFFunction.apply(x, v, decay)


def random_input(generator: torch.Generator, T: int, neurons: int, max_spikes: int) -> Tensor:
    """Half of it ordinary, half eighths around 0..D: ties, and membranes at the window's ends."""
    ordinary = torch.randn(T, neurons, generator=generator, dtype=torch.float64) * max_spikes
    eighths = torch.randint(-8, 8 * max_spikes + 9, (T, neurons), generator=generator) / 8
    return torch.where(torch.rand(neurons, generator=generator) < 0.5, ordinary, eighths)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_the_torch_neuron_bit_for_bit(dtype):
    """Every T to 16 and D to 8, odd sizes, both resets, normalised or not, with states or not."""
    generator = torch.Generator().manual_seed(0)
    sizes = [1, 7, 8, 9, 64, 1000, 1023, 1024, 1025, 2048, 2049, 4100]
    membrane = launch.SCALARS[dtype][1]
    fired = set()
    for case in range(160):
        T, D, N = case % 16 + 1, case // 16 % 8 + 1, sizes[case % len(sizes)]
        decay = (0.25, 0.5, 1.0, 0.0)[case // 3 % 4]
        settings = (D, decay, (1.0, 0.5, 3.0)[case % 3], bool(case & 1))
        spike_value = 1 / D if case // 5 % 2 else 1.0
        x = random_input(generator, T, N, D).to(dtype)
        v = torch.randn(N, generator=generator).to(membrane) if case & 2 else None
        cotangents = (
            torch.randn(T, N, generator=generator).to(dtype),
            torch.randn(N, generator=generator).to(membrane) if case & 4 else None,
        )
        ours, truth = (
            forward_and_backward(
                partial(neuron, spike_value=spike_value), x, v, cotangents, settings
            )
            for neuron in (ilif, torch_neuron)
        )
        for mine, theirs in zip(ours, truth, strict=True):
            same(mine, theirs)
        fired.add((D, spike_value, truth[0].max().item()))
    assert {case for D in range(1, 9) for case in ((D, 1.0, D), (D, 1 / D, 1))} <= fired


def test_gradient_of_the_final_state_alone():
    torch.manual_seed(0)
    x, v, weight = torch.randn(5, 300) * 2, torch.randn(300), torch.randn(300)
    ours = forward_and_backward(ilif, x, v, (None, weight), (4, 0.5, 0.5, False))
    truth = forward_and_backward(torch_neuron, x, v, (None, weight), (4, 0.5, 0.5, False))
    for mine, theirs in zip(ours, truth, strict=True):
        same(mine, theirs)
    assert ours[2].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_other_decays_to_rounding(dtype):
    """Where decay * v is not exact, PyTorch may or may not fuse product and sum."""
    torch.manual_seed(0)
    x = (torch.randn(8, 5000, dtype=torch.float64) * 3).to(dtype)
    spikes, state = ilif(x, None, 4, 0.9, 0.37)
    truth, v = torch_neuron(x.double(), None, 4, 0.9, 0.37, True)
    assert (spikes.double() == truth).double().mean() > 0.9999
    assert (state.double() - v).abs().median() < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values_stay_in_sight(dtype):
    limits = torch.finfo(dtype)
    values = [-0.0, limits.tiny, -limits.tiny, limits.max, limits.min, torch.inf, -torch.inf]
    x = torch.tensor([[*values, torch.nan, 0.5, 4.0], [1.0] * 10], dtype=dtype)
    cotangents = (torch.ones_like(x), None)
    ours = forward_and_backward(ilif, x, None, cotangents, (4, 0.25, 1.0, False))
    truth = forward_and_backward(torch_neuron, x, None, cotangents, (4, 0.25, 1.0, False))
    for mine, theirs in zip(ours, truth, strict=True):
        same(mine, theirs)
    assert ours[0][:, 7].isnan().all()


@pytest.mark.parametrize("code", ["coco", "gen1"])
@pytest.mark.parametrize("tag", ["edges", "edgesT3", "rand_T1", "rand_T4", "rand_T8"])
def test_golden_spikes_and_gradients(golden, code, tag):
    figures = golden(f"spikeyolo/neuron_{code}.npz")
    x = torch.tensor(figures[f"{tag}_x"], requires_grad=True)
    node = ILIFNode(4, *{"coco": (0.25, 1.0), "gen1": (0.5, 0.5)}[code], backend="cupy")
    spikes = node(x)
    (spikes * torch.tensor(figures[f"{tag}_cot"])).sum().backward()
    torch.testing.assert_close(spikes.detach(), torch.tensor(figures[f"{tag}_spike"]))
    torch.testing.assert_close(x.grad, torch.tensor(figures[f"{tag}_grad"]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_binary_neuron_equals_torchs_bit_for_bit(dtype):
    """Every T to 16, odd sizes, with states or not; spikes, final state and gradients."""
    generator = torch.Generator().manual_seed(0)
    membrane = launch.SCALARS[dtype][1]
    for case in range(64):
        T, N = case % 16 + 1, (1, 9, 1000, 1024, 2049)[case % 5]
        x = random_input(generator, T, N, 1).to(dtype)
        v = torch.randn(N, generator=generator).to(membrane) if case & 2 else None
        cotangents = (
            torch.randn(T, N, generator=generator).to(dtype),
            torch.randn(N, generator=generator).to(membrane) if case & 4 else None,
        )
        decay = (0.25, 0.5, 1.0)[case % 3]
        ours, truth = (
            forward_and_backward(neuron, x, v, cotangents, (decay,))
            for neuron in (binary_neuron, torch_binary_neuron)
        )
        for mine, theirs in zip(ours, truth, strict=True):
            same(mine, theirs)
    assert set(truth[0].unique().tolist()) == {0, 1}


def test_golden_normalised_spikes_and_gradients(check_nilif):
    check_nilif("cupy")


def shifted(x: Tensor) -> Tensor:
    """The same values, one element behind a 16-byte boundary."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view_as(x)


LAYOUTS = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: (
        x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
    ),
    "misaligned": shifted,
    "permuted": lambda x: x.permute(0, 4, 1, 3, 2).contiguous().permute(0, 2, 4, 3, 1),
    "batch first": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "every second": lambda x: torch.stack([x, x + 1], dim=-1)[..., 0],
    "expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("grad_layout", ["contiguous", "channels_last", "expanded"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 2, 8, 4, 6), (3, 1, 5, 1, 3), (1, 2, 3, 2, 2)])
def test_layouts(shape, layout, grad_layout):
    torch.manual_seed(0)
    x = LAYOUTS[layout](torch.randn(shape) * 2)
    v = torch.randn(shape[1:]).transpose(1, 2).contiguous().transpose(1, 2)
    cotangents = (LAYOUTS[grad_layout](torch.randn(shape)), torch.randn(shape[1:]))
    ours = forward_and_backward(ilif, x, v, cotangents, (4, 0.25, 1.0, True))
    truth = forward_and_backward(torch_neuron, x, v, cotangents, (4, 0.25, 1.0, True))
    for mine, theirs in zip(ours, truth, strict=True):
        same(mine, theirs)
    assert list(ours[0].stride()) == list(ours[2].stride()) == steps_layout(x)


def test_dense_layouts_are_not_copied():
    x = LAYOUTS["channels_last"](torch.randn(2, 3, 4, 5, 6))
    assert steps_layout(x) == list(x.stride())
    assert ilif(x)[0].stride() == x.stride()


def test_no_neurons():
    spikes, state = ilif(torch.zeros(3, 0, 4, requires_grad=True))
    spikes.sum().backward()
    assert spikes.shape == (3, 0, 4)
    assert state.shape == (0, 4)


def test_only_what_is_wanted_is_kept():
    """A bit per element for the backward pass, and nothing of it when there is none."""
    x = torch.zeros(4, 16, 32, 40, dtype=torch.bfloat16)
    settings = (4, 0.25, 1.0, True)
    _, state, window = ilif_forward(x, None, *settings, False, True)
    assert window.nbytes * 8 == x.numel()
    assert state.numel() == 0
    assert ilif_forward(x, None, *settings, False, False)[2].numel() == 0
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda saved: saved):
        ilif(x)
        assert not kept
        ilif(x.requires_grad_())
        ilif(x, max_spikes=1, hard_reset=True)
    assert [saved.nbytes for saved in kept] == [window.nbytes, 2 * window.nbytes]


@pytest.mark.parametrize("vectorised", [True, False])
def test_more_neurons_than_32_bits_count(kernels_on_cpu, vectorised, tmp_path):
    """The last block of T = 2 rows of 2^31 + 2^11 neurons, in files of holes but for their ends."""
    neurons, T, threads = 2**31 + 2048, 2, launch.THREADS
    files = [np.memmap(tmp_path / name, np.int16, "w+", shape=(T, neurons)) for name in "xs"]
    x, spikes = (torch.from_numpy(file).view(torch.bfloat16) for file in files)
    x[:, -1000:] = (torch.randn(T, 1000) * 3).bfloat16()
    pointers = (np.uint64(x.data_ptr()), np.uint64(0), np.uint64(spikes.data_ptr()))
    settings = (np.int64(neurons), *map(np.float32, (4, 0.25, 1, 1)))
    run = kernels_on_cpu("ilif_forward", "BFloat16", T, vectorised, False)
    blocks = launch.blocks(neurons)
    arguments = (*pointers, np.uint64(0), np.uint64(0), *settings)
    run((blocks,), (threads,), arguments, first=blocks - 1)
    same(spikes[:, -1000:], torch_neuron(x[:, -1000:], None, 4, 0.25, 1.0, True)[0])
    assert spikes[:, -1000:].max() == 4


# --- as torch operators ---------------------------------------------------------------------------


@pytest.mark.slow
def test_operators_keep_their_promises():
    """Schemas, fake results and autograd registration, by torch's own check."""
    x = LAYOUTS["channels_last"](torch.randn(2, 3, 8, 4, 4))
    v = torch.randn(3, 8, 4, 4)
    everything = (4, 0.25, 1.0, True, True, True)
    torch.library.opcheck(ilif_forward, (x.requires_grad_(), None, *everything))
    torch.library.opcheck(ilif_forward, (x, v.requires_grad_(), *everything, 0.25))
    torch.library.opcheck(ilif_forward, (x.detach(), None, *everything[:4], False, False))
    window = ilif_forward(x.detach(), None, *everything)[2]
    backward = (torch.ones_like(x), window, v.detach(), list(x.stride()), 0.25, 1.0, True, True)
    torch.library.opcheck(ilif_backward, backward)
    torch.library.opcheck(ilif_backward, (*backward, 0.25))
    binary = (x, v, 1, *everything[1:], 1.0, True)
    torch.library.opcheck(ilif_forward, binary)
    window = ilif_forward(x.detach(), *binary[1:])[2].detach()
    torch.library.opcheck(ilif_backward, (backward[0], window, *backward[2:], 1.0, True))


def test_compiles_without_graph_breaks():
    torch.manual_seed(0)
    x = torch.randn(3, 2, 8, 5, 5)
    weight = torch.randn(8, requires_grad=True)

    def network(x: Tensor) -> Tensor:
        spikes, _ = ilif(x * weight.view(-1, 1, 1), None, 4, 0.5, 0.5, spike_value=0.25)
        return spikes.square().sum()

    truth = torch.autograd.grad(network(x), weight)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    same(torch.autograd.grad(compiled(x), weight)[0], truth[0])


def test_amp_keeps_the_type_of_the_convolution():
    torch.manual_seed(0)
    convolution, node = torch.nn.Conv2d(3, 8, 3), ILIFNode()
    with torch.autocast("cpu", torch.bfloat16):
        spikes = node(convolution(torch.randn(4, 3, 9, 9)))
    spikes.sum().backward()
    assert spikes.dtype == torch.bfloat16
    assert node.v.dtype == convolution.weight.grad.dtype == torch.float32


# --- what cannot be computed ----------------------------------------------------------------------


def test_types_and_shapes_without_a_kernel_are_refused():
    with pytest.raises(ValueError, match=r"torch\.int32, expected one of torch\.float32"):
        ilif(torch.zeros(2, 3, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"v has shape \(4,\), the input needs \(3,\)"):
        ilif(torch.zeros(2, 3), torch.zeros(4))
    with pytest.raises(ValueError, match="max_spikes is 4, expected 1 with a hard reset"):
        ilif(torch.zeros(2, 3), hard_reset=True)
