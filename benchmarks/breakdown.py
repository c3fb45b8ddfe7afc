"""Where the time of a step goes: device time by kind of work, read from torch's profiler."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from common import reason
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

#: Kind of work -> parts of the names of its GPU kernels and CPU operators; the first match counts.
KINDS = {
    "neuron": ("ilif",),
    "batch norm": ("batch_norm", "batchnorm", "bn_fw", "bn_bw", "welford"),
    "convolution": (
        *("conv", "xmma", "cutlass", "cudnn", "gemm", "fprop", "dgrad", "wgrad", "winograd"),
        *("nvjet", "addmm", "aten::mm", "aten::bmm"),
    ),
    "optimiser": ("multi_tensor", "foreach", "optimizer"),
    "copies": ("memcpy", "memset", "copy", "aten::cat", "catarray", "fill"),
}
OTHER = "other elementwise, loss, pooling"


def kind_of(name: str) -> str:
    lower = name.lower()
    for kind, parts in KINDS.items():
        if any(part in lower for part in parts):
            return kind
    return OTHER


def time_by_kind(
    prepare: Callable[[], Callable[[], object]], device: torch.device, calls: int = 3
) -> list[dict[str, Any]]:
    """Rows of kind, ms of one call and share, largest first; or one row saying why there are none.

    On a GPU its kernels' times, in which backends "cupy" and "spikingjelly" name their neurons;
    on a CPU the operators' own times, in which the torch neuron counts as elementwise.
    """
    try:
        spent = profiled(prepare(), device, calls)
    except Exception as error:  # out of memory, of the profiler
        return [{"kind": reason(error), "ms": None, "share": None}]
    total = sum(spent.values())
    return [
        {"kind": kind, "ms": micros / calls / 1e3, "share": micros / total}
        for kind, micros in spent.most_common()
    ]


def profiled(call: Callable[[], object], device: torch.device, calls: int) -> Counter[str]:
    """Microseconds by kind in all calls together."""
    gpu = device.type == "cuda"
    call()
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * gpu]) as profiler:
        for _ in range(calls):
            call()
        if gpu:
            torch.cuda.synchronize(device)
    spent: Counter[str] = Counter()
    for event in profiler.key_averages():
        if (event.device_type == DeviceType.CUDA) == gpu:
            micros = event.self_device_time_total if gpu else event.self_cpu_time_total
            spent[kind_of(event.key)] += micros
    if not spent:
        raise ValueError("the profiler saw no work on the device")
    return spent
