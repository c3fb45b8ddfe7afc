"""Which backend runs, what a missing CuPy or driver says, and that nvcc takes the CUDA source."""

import re
import shutil
import subprocess
import sys
import types

import pytest
import torch
from torch._subclasses import FakeTensorMode

from models.ems.neuron import LIFNode
from models.kernels import launch
from models.neuron import ILIFNode


def cuda_input() -> torch.Tensor:
    """A tensor that claims to be on a GPU and holds nothing."""
    with FakeTensorMode():
        return torch.empty(2, 3, device="cuda")


@pytest.fixture
def cupy(monkeypatch):
    """A stand-in for the CuPy package that can do nothing until a test gives it something."""
    package = types.ModuleType("cupy")
    monkeypatch.setitem(sys.modules, "cupy", package)
    monkeypatch.setattr(launch, "CUPY_INSTALLED", True)
    return package


@pytest.fixture
def no_cupy(monkeypatch):
    monkeypatch.setattr(launch, "CUPY_INSTALLED", False)


@pytest.mark.usefixtures("cupy")
def test_auto_on_a_cpu_is_torch():
    assert ILIFNode()._backend_for(torch.zeros(2, 3)) == "torch"


@pytest.mark.usefixtures("cupy")
def test_auto_on_a_gpu_is_cupy():
    for node in (ILIFNode(), LIFNode()):
        assert node._backend_for(cuda_input()) == "cupy"


@pytest.mark.usefixtures("no_cupy")
def test_auto_on_a_gpu_without_cupy_is_spikingjelly_where_it_can():
    assert ILIFNode()._backend_for(cuda_input()) == "spikingjelly"
    for node in (ILIFNode(decay=1.0), LIFNode()):
        assert node._backend_for(cuda_input()) == "torch"


@pytest.mark.usefixtures("no_cupy")
def test_cupy_is_refused_where_it_cannot_run():
    with pytest.raises(ValueError, match=r"^backend 'cupy' cannot run: the tensor is on the cpu"):
        ILIFNode(backend="cupy")(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"CuPy is not installed \(pip install cupy-cuda12x"):
        ILIFNode(backend="cupy")._backend_for(cuda_input())


def test_a_missing_driver_is_one_sentence(cupy):
    def without_driver(**_options):
        raise OSError("cudaErrorInsufficientDriver:\n CUDA driver version is insufficient")

    cupy.RawModule = without_driver
    sentence = r"^backend 'cupy' cannot run: OSError .*Driver: CUDA driver version is insufficient"
    with pytest.raises(ValueError, match=sentence):
        launch.compiled("ilif_forward", "float", 3, True, False)


def test_cupy_gets_the_source_and_its_options_once(cupy):
    built = []

    class RawModule:
        def __init__(self, code, options):
            built.append((code, options))

        def get_function(self, name):
            return name

    cupy.RawModule = RawModule
    launch.compiled.cache_clear()
    for _ in range(2):
        assert launch.compiled("ilif_backward", "Half", 5, False, True) == "ilif_backward"
    launch.compiled.cache_clear()
    ((code, options),) = built
    assert "ilif_backward" in code
    assert {"-DSCALAR=Half", "-DTIME_STEPS=5", "--fmad=false"} <= set(options)
    assert {"-DVECTORISED=0", "-DHARD_RESET=1"} <= set(options)


def test_a_cpu_never_imports_cupy():
    script = (
        "import sys, torch; from models.neuron import ILIFNode; "
        "ILIFNode()(torch.ones(2, 3, requires_grad=True)).sum().backward(); "
        "assert 'cupy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("backend", ["torch", "spikingjelly"])
def test_a_node_that_keeps_no_state_starts_from_rest(backend):
    x = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * 2
    node = ILIFNode(backend=backend)
    node.keep_state = False
    first = node(x)
    assert node.v is None
    assert torch.equal(node(x), first)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize(("vectorised", "hard_reset"), [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("scalar", [name for name, _ in launch.SCALARS.values()])
def test_nvcc_takes_the_source(tmp_path, scalar, vectorised, hard_reset):
    """For A100 and H100 / H200: no register spills, and all but window bytes move 16 at once."""
    options = launch.options(scalar, 4, bool(vectorised), bool(hard_reset))
    targets = [f"-gencode=arch=compute_{sm},code=[sm_{sm},compute_{sm}]" for sm in (80, 90)]
    command = ["nvcc", *options, *targets, "-Xptxas=-v", "--keep", f"--keep-dir={tmp_path}"]
    output = ["-fatbin", "-o", tmp_path / "ilif.fatbin", launch.SOURCE]
    done = subprocess.run([*command, *output], check=True, capture_output=True, text=True)
    spills = re.findall(r"(\d+) bytes spill stores", done.stderr)
    assert spills == ["0"] * 4  # two kernels, two targets
    kernels = [
        kernel
        for assembly in tmp_path.glob("*.ptx")
        for kernel in re.findall(r"\.entry (ilif_\w+\(.*?)\n}", assembly.read_text(), re.S)
    ]
    assert len(kernels) == 4
    for kernel in kernels:
        if vectorised:
            assert {"v4", "u8"} == set(re.findall(r"(?:ld|st)\.global(?:\.nc)?\.(\w+)", kernel))
