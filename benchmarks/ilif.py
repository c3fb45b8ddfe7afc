"""How fast is the I-LIF neuron, beside SpikingJelly's own and beside copying memory?

`python benchmarks/ilif.py` measures, on every distinct neuron map of SpikeYOLO-s at batch 32,
T=4, 256x320 px, each backend and a plain loop over T forward and backward, and a device copy of
the same bytes. On a CPU a few small maps show that the script runs; their figures say nothing
about a GPU. "Least bytes" are those no kernel can avoid: forward x in, spikes and window bits out;
backward gradient and bits in, gradient out. Writes ilif_<device>_<date>.json and .md under
benchmarks/results/.
"""

import math
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from authors_style import LoopedNode
from common import Row, main, median_ms, reason, table
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor, nn

from models import build_model
from models.ems.neuron import LIFNode
from models.kernels.launch import obstacle
from models.neuron import ILIFNode

T, D, DECAY = 4, 4, 0.25
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
YARDSTICK = "spikingjelly"
FIGURES = (
    "inference ms", "forward ms", "backward ms", "saved bytes/element", "peak bytes/element",
)  # fmt: skip
SMALL_SHAPES = {(T, 2, 16, 16, 20): 1, (T, 1, 8, 15, 17): 1}


def neuron_maps(batch: int) -> dict[tuple[int, ...], int]:
    """Shape of every neuron's input in SpikeYOLO-s -> how many neurons have it, largest first."""
    shapes: Counter[tuple[int, ...]] = Counter()

    def count(_node: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shapes[tuple(inputs[0].shape)] += 1

    with torch.device("meta"):
        model = build_model("spikeyolo-s", variant="gen1")
        for node in model.modules():
            if isinstance(node, ILIFNode):
                node.register_forward_pre_hook(count)
        model(torch.empty(T, batch, 2, 256, 320))
    return dict(sorted(shapes.items(), key=lambda item: -torch.Size(item[0]).numel()))


def nodes(device: torch.device) -> dict[str, nn.Module]:
    """The neurons compared, all with the detached reset of SpikeYOLO, from rest at every call."""
    window = surrogate.MultiLevelSpikeCount(D)
    found: dict[str, nn.Module] = {
        YARDSTICK: neuron.ILIFNode(
            tau=1 / (1 - DECAY), surrogate_function=window, detach_reset=True, step_mode="m"
        ),
        "torch": ILIFNode(D, DECAY, backend="torch"),
        "plain loop": LoopedNode(ILIFNode(D, DECAY)),
    }
    if obstacle(device.type) is None:
        found["cupy"] = ILIFNode(D, DECAY, backend="cupy")
        found["cupy, NI-LIF"] = ILIFNode(D, DECAY, backend="cupy", normalize=True)
        found |= {f"{name}, binary LIF": LIFNode(DECAY, name) for name in ("cupy", "torch")}
    for node in found.values():
        node.keep_state = False
    return found


def from_rest(node: Any) -> Callable[[Tensor], Tensor]:
    if isinstance(node, LoopedNode):
        return node

    def call(x: Tensor) -> Tensor:
        node.reset()
        return node(x)

    return call


def saved_bytes(call: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Memory that autograd keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        spikes = call(x)
    assert spikes.requires_grad
    return sum(kept.values())


def extra_peak_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Peak of GPU memory during the call beyond what was there before; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def measure_node(call: Callable[[Tensor], Tensor], x: Tensor, seconds: float) -> Row:
    leaf = x.detach().requires_grad_()
    gradient = torch.randn_like(x)
    spikes = call(leaf)

    def backward() -> None:
        torch.autograd.grad(spikes, leaf, gradient, retain_graph=True)

    with torch.no_grad():
        inference_ms = median_ms(lambda: call(x), x.device, seconds)
    peak = extra_peak_bytes(lambda: call(leaf), x.device)
    return {
        "inference ms": inference_ms,
        "forward ms": median_ms(lambda: call(leaf), x.device, seconds),
        "backward ms": median_ms(backward, x.device, seconds),
        "saved bytes/element": saved_bytes(call, leaf) / x.numel(),
        "peak bytes/element": None if peak is None else peak / x.numel(),
    }


def figures_of(node: nn.Module, x: Tensor, seconds: float) -> tuple[Row, str | None]:
    """(figures, None), or (nothing, why): a backend that fails does not stop the others."""
    try:
        return measure_node(from_rest(node), x, seconds), None
    except Exception as error:
        return dict.fromkeys(FIGURES, math.nan), reason(error)


def random_map(shape: tuple[int, ...], dtype: str, device: torch.device) -> Tensor:
    """Membrane input [T, B, C, H, W] in channels_last."""
    T, B, C, H, W = shape
    x = torch.randn(T * B, C, H, W, device=device).mul_(2).to(DTYPES[dtype])
    return x.to(memory_format=torch.channels_last).unflatten(0, (T, B))


def measure_map(
    shape: tuple[int, ...], neurons: int, dtype: str, device: torch.device, seconds: float
) -> list[Row]:
    """One row per backend, with its speed beside copying the least bytes and the yardstick's."""
    x = random_map(shape, dtype, device)
    target = torch.empty_like(x)
    copy_ms = median_ms(lambda: target.copy_(x), device, seconds)
    copied_bytes = 2 * x.nbytes
    least_bytes = copied_bytes + x.numel() / 8
    bound_ms = copy_ms * least_bytes / copied_bytes
    figures = {name: figures_of(node, x, seconds) for name, node in nodes(device).items()}
    yardstick, _ = figures[YARDSTICK]
    return [
        {
            "map": "x".join(map(str, shape)),
            "neurons": neurons,
            "dtype": dtype,
            "backend": name,
            **row,
            "copy GB/s": copied_bytes / copy_ms / 1e6,
            "forward share of copy": bound_ms / row["forward ms"],
            "backward share of copy": bound_ms / row["backward ms"],
            **{
                f"{key} speed-up": yardstick[f"{key} ms"] / row[f"{key} ms"]
                for key in ("inference", "forward", "backward")
            },
            "failed": failed,
        }
        for name, (row, failed) in figures.items()
    ]


def measure(given: Namespace) -> tuple[dict[str, Any], str]:
    maps = neuron_maps(given.batch) if given.device.type == "cuda" else SMALL_SHAPES
    rows = []
    for dtype in given.dtypes:
        for shape, neurons in maps.items():
            rows += measure_map(shape, neurons, dtype, given.device, given.seconds)
    question = f"I-LIF (T={T}, D={D}, channels_last) beside SpikingJelly's and a memory copy"
    return {"question": question, "rows": rows}, table(rows)


if __name__ == "__main__":
    options = {
        "--batch": {"type": int, "default": 32},
        "--dtypes": {"nargs": "+", "choices": list(DTYPES), "default": ["bf16", "fp32"]},
        "--seconds": {"type": float, "default": 0.2, "help": "of calls per figure"},
    }
    main(__doc__, measure, options)
