"""The benchmarks' own parts: the yardstick computes the same network, and tables tell the truth."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from models import build_model
from models.neuron import ILIFNode

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CASE = {"size": "p", "height": 32, "width": 64, "time_steps": 4, "max_spikes": 2}
CPU = torch.device("cpu")


@pytest.fixture
def benchmark(monkeypatch):
    """benchmark("networks") -> benchmarks/networks.py as a module."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
    return importlib.import_module


@pytest.mark.parametrize("detach_reset", [True, False])
def test_the_yardstick_s_neuron_is_ours(benchmark, detach_reset):
    torch.manual_seed(0)
    x = (torch.randn(5, 3, 200, dtype=torch.float64) * 24).round().div(8).requires_grad_()
    node = ILIFNode(3, 0.5, 0.5, detach_reset, "torch")
    node.keep_state = False
    runs = []
    for run in (node, benchmark("authors_style").LoopedNode(node)):
        spikes = run(x)
        runs.append((spikes, torch.autograd.grad((spikes * x.detach()).sum(), x)[0]))
    for theirs, ours in zip(*runs, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-12)
    assert {0.0, 1.0, 2.0, 3.0} == {*runs[0][0].unique().tolist()}


def test_the_yardstick_is_the_same_network_without_our_neurons(benchmark):
    model = build_model("spikeyolo-p", variant="gen1").double()
    theirs = benchmark("authors_style").authors_style(model)
    assert not any(isinstance(module, ILIFNode) for module in theirs.modules())
    assert sum(isinstance(module, ILIFNode) for module in model.modules()) == 88
    x = torch.poisson(torch.full((4, 1, 2, 32, 64), 0.4, dtype=torch.float64))
    for a, b in zip(theirs(x), model(x), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_a_variant_that_fails_is_a_row_that_says_why(benchmark):
    networks = benchmark("networks")

    def too_large() -> None:
        raise MemoryError("64 GiB | at once")

    row = networks.figures(too_large, 1, CPU, 0)
    assert row["failed"] == "MemoryError: 64 GiB / at once"
    assert row["ms"] is None
    fine = networks.figures(lambda: lambda: None, 1, CPU, 0)
    assert networks.with_speed_up([fine, row])[1]["speed-up"] is None
    report_failures = benchmark("common").report_failures
    report_failures({"question": "?", "rows": [fine]})
    with pytest.raises(SystemExit, match="1 of 3 variants failed"):
        report_failures({"question": "?", "rows": [fine, row], "memory": [fine], "kinds": [{}]})


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ilif_backward", "neuron"),
        ("void cudnn::bn_fw_tr_1C11_kernel_NCHW<float>", "batch norm"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16", "convolution"),
        ("aten::convolution_backward", "convolution"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("aten::add_", "other elementwise, loss, pooling"),
    ],
)
def test_kernels_are_told_apart_by_name(benchmark, name, kind):
    assert benchmark("breakdown").kind_of(name) == kind


def test_live_bytes_know_what_is_alive_at_once(benchmark):
    x = torch.empty(1000, dtype=torch.uint8, device="meta")
    with benchmark("predicted_memory").LiveBytes() as counted:
        y = x + 1
        z = y + 1
        view = z[:500]
        assert counted.live == 2000
        del y, z
        assert counted.live == 1000
        del view
    assert (counted.live, counted.peak) == (0, 2000)


@pytest.mark.slow
def test_predicted_memory_grows_with_the_batch_and_shrinks_with_checkpoints(benchmark):
    predicted_gib = benchmark("predicted_memory").predicted_gib
    small, double, quadruple = (predicted_gib(CASE, batch) for batch in (8, 16, 32))
    assert quadruple - double == pytest.approx(2 * (double - small), rel=0.02)
    assert predicted_gib(CASE, 32, checkpoint_stages=True) < 0.7 * quadruple
