"""What is measured of networks: the cases, their input, and one row of figures."""

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import Row, median_ms, reason
from torch import Tensor

from models import build_model
from models.kernels.launch import obstacle
from models.spikeyolo import SpikeYOLO

CASES = (
    {"size": "s", "height": 256, "width": 320, "time_steps": 4, "max_spikes": 2},
    {"size": "s", "height": 320, "width": 320, "time_steps": 2, "max_spikes": 4},
)
SMALL_CASES = ({"size": "p", "height": 32, "width": 64, "time_steps": 2, "max_spikes": 4},)
PRECISION = {"cuda": torch.bfloat16, "cpu": torch.float32}
YARDSTICK = "as the authors run it"
TWINS = {"ANN twin, ReLU": "relu", "ANN twin, quantised": "qann"}
SECONDS = {"type": float, "default": 3.0, "help": "of calls per figure"}
Case = dict[str, Any]
Call = Callable[[], object]


def cases(device: torch.device) -> tuple[Case, ...]:
    return CASES if device.type == "cuda" else SMALL_CASES


def setting(case: Case) -> str:
    return "spikeyolo-{size} {height}x{width} T={time_steps} D={max_spikes}".format(**case)


def backends(device: torch.device) -> list[str]:
    return ["spikingjelly", "torch", *(["cupy"] if obstacle(device.type) is None else [])]


def network(case: Case, **overrides: Any) -> SpikeYOLO:
    """In float32 on torch's default device, with the same weights whatever runs the neurons."""
    torch.manual_seed(0)
    settings = {key: case[key] for key in ("time_steps", "max_spikes")}
    return build_model(f"spikeyolo-{case['size']}", variant="gen1", **settings, **overrides)


def event_frames(case: Case, batch: int, device: torch.device) -> Tensor:
    """Random event counts x [T, B, 2, H, W], about a third of the pixels hit."""
    shape = (case["time_steps"], batch, 2, case["height"], case["width"])
    return torch.poisson(torch.full(shape, 0.4, device=device))


def figures(prepare: Callable[[], Call], batch: int, device: torch.device, seconds: float) -> Row:
    """Time and peak memory of the call that `prepare` makes; or, in words, what prevented it.

    One variant that does not fit or does not compile must not cost the figures of the others.
    """
    try:
        call = prepare()
        call()
        start_peak(device)
        milliseconds = median_ms(call, device, seconds)
    except Exception as error:  # out of memory, of a compiler, of the driver
        return {"ms": None, "images/s": None, "peak GiB": None, "failed": reason(error)}
    rate = 1e3 * batch / milliseconds
    return {"ms": milliseconds, "images/s": rate, "peak GiB": peak_gib(device), "failed": None}


def start_peak(device: torch.device) -> None:
    """Forget the peak so far, and free what earlier variants left."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def compared(
    variants: dict[str, Callable[..., Call]],
    case: Case,
    batch: int,
    device: torch.device,
    seconds: float,
) -> list[Row]:
    """One row per variant, name -> what makes its call; the first is the yardstick."""
    torch.backends.cudnn.benchmark = True  # the fastest convolution, for every variant
    rows = []
    for name, make in variants.items():
        row = figures(partial(make, case, batch, device), batch, device, seconds)
        rows.append({"network": setting(case), "variant": name, "batch": batch, **row})
    return with_speed_up(rows)


def with_speed_up(rows: list[Row]) -> list[Row]:
    """The rows of one comparison, each with its speed beside that of the first."""
    first = rows[0]["ms"]
    return [{**row, "speed-up": first / row["ms"] if first and row["ms"] else None} for row in rows]
