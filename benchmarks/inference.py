"""How long does one inference of SpikeYOLO take, and what does each way of deploying it give?

`python benchmarks/inference.py` measures SpikeYOLO-s at 256x320 px, T=4, D=2 and at 320x320 px,
T=2, D=4, weights drawn at random, at batch 1 (latency) and 64 (throughput), frames in, raw maps
out: deployed in bf16 and channels_last with each neuron backend; then one change at a time: not
folded, contiguous, float32, CUDA graph, torch.compile; the ANN twins; all
beside the network as its authors run it (float16 autocast, contiguous, not folded). On a CPU,
size p with a tiny image in float32 shows that the script runs. Writes
inference_<device>_<date>.json and .md under benchmarks/results/.
"""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from authors_style import authors_style
from breakdown import time_by_kind
from common import main, table
from networks import (
    PRECISION,
    SECONDS,
    TWINS,
    YARDSTICK,
    Call,
    Case,
    backends,
    cases,
    compared,
    event_frames,
    network,
    setting,
)
from torch import nn

from models.deploy import deploy
from models.spikeyolo import SpikeYOLO

Change = Callable[[SpikeYOLO], nn.Module]


def yardstick(case: Case, batch: int, device: torch.device) -> Call:
    model = authors_style(network(case, backend="torch")).eval().to(device)
    frames = event_frames(case, batch, device)

    def infer() -> object:
        with torch.autocast(device.type, torch.float16, enabled=device.type == "cuda"):
            return model(frames)

    return infer


def deployed(
    case: Case,
    batch: int,
    device: torch.device,
    change: Change = deploy,
    layout: torch.memory_format = torch.channels_last,
    dtype: torch.dtype | None = None,
    **overrides: object,
) -> Call:
    """Inference of the network after `change`, by default deployed, bf16 and channels_last."""
    dtype = dtype or PRECISION[device.type]
    model = change(network(case, **overrides)).to(device, dtype, memory_format=layout)
    assert not model.training
    return partial(model, event_frames(case, batch, device).to(dtype))


def compiled(model: SpikeYOLO) -> nn.Module:
    return torch.compile(deploy(model)).eval()


def graphed(make: Callable[..., Call], *given: object) -> Call:
    """Replay of one CUDA graph: no launch costs Python anything."""
    call = make(*given)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def variants(device: torch.device) -> dict[str, Callable[..., Call]]:
    """How the call is made, the yardstick first."""
    made: dict[str, Callable[..., Call]] = {YARDSTICK: yardstick}
    made |= {f"backend {name}": partial(deployed, backend=name) for name in backends(device)}
    made |= {
        "not folded": partial(deployed, change=nn.Module.eval),
        "contiguous": partial(deployed, layout=torch.contiguous_format),
    }
    if device.type == "cuda":
        made |= {
            "float32": partial(deployed, dtype=torch.float32),
            "CUDA graph": partial(graphed, deployed),
            "torch.compile": partial(deployed, change=compiled),
        }
    made |= {name: partial(deployed, activation=kind) for name, kind in TWINS.items()}
    return made


@torch.no_grad()
def measure(given: Namespace) -> tuple[dict[str, Any], str]:
    device = given.device
    largest = given.batch or (64 if device.type == "cuda" else 2)
    first, *_ = every = cases(device)
    rows = []
    for case in every:
        for batch in sorted({1, largest}):
            rows += compared(variants(device), case, batch, device, given.seconds)
    kinds = time_by_kind(partial(deployed, first, largest, device), device)
    result = {
        "question": "SpikeYOLO's inference: images/s, peak memory, time by kind of work",
        "precision": str(PRECISION[device.type]),
        "rows": rows,
        "kinds": kinds,
    }
    return result, f"{table(rows)}\nTime by kind of work, {setting(first)}:\n\n{table(kinds)}"


if __name__ == "__main__":
    batch = {"type": int, "help": "beside 1; 64 on a GPU, 2 on a CPU"}
    main(__doc__, measure, {"--batch": batch, "--seconds": SECONDS})
