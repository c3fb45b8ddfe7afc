"""How long does a training step of SpikeYOLO take, in how much memory, and where does it go?

`python benchmarks/train_step.py` measures SpikeYOLO-s at 256x320 px, T=4, D=2 and at 320x320 px,
T=2, D=4, weights drawn at random: forward under autocast, loss, backward, clipped SGD, in bf16
and channels_last with each neuron backend and as ANN twins, beside the network as its authors
run it (float16, contiguous). Then the memory of sizes s, m and l, with and without
checkpointed stages, and the time by kind of work. On a CPU, size p with a tiny image in float32
shows that the script runs. Writes train_step_<device>_<date>.json and .md under
benchmarks/results/.
"""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from authors_style import authors_style
from breakdown import time_by_kind
from common import Row, main, table
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
    figures,
    network,
    setting,
)
from predicted_memory import predicted_gib
from torch import Tensor, nn

from models.loss import DetectionLoss
from models.spikeyolo import SpikeYOLO
from training.config import OptimConfig
from training.loop import build_optimizer


def labels(case: Case, batch: int, device: torch.device) -> Tensor:
    """Two boxes per image: rows (image, class, x1, y1, x2, y2) in px."""
    h, w = case["height"], case["width"]
    boxes = [[0, 0.1 * w, 0.1 * h, 0.5 * w, 0.4 * h], [1, 0.6 * w, 0.3 * h, 0.8 * w, 0.9 * h]]
    return torch.tensor([[i, *box] for i in range(batch) for box in boxes], device=device)


def training_step(
    model: SpikeYOLO, case: Case, batch: int, device: torch.device, dtype: torch.dtype
) -> Call:
    """One step of the recipe; with gradients scaled where float16 needs it."""
    recipe = OptimConfig()
    optimizer = build_optimizer(model.train(), recipe, batch)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    criterion = DetectionLoss(model.config.num_classes)
    frames, targets = event_frames(case, batch, device), labels(case, batch, device)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            maps = model(frames)
        losses = criterion([m.float() for m in maps], targets)
        scaler.scale(sum(losses.values()) * batch).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


def yardstick_step(case: Case, batch: int, device: torch.device) -> Call:
    model = authors_style(network(case, backend="torch")).to(device)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    return training_step(model, case, batch, device, dtype)


def our_step(case: Case, batch: int, device: torch.device, **overrides: Any) -> Call:
    model = network(case, **overrides).to(device, memory_format=torch.channels_last)
    return training_step(model, case, batch, device, PRECISION[device.type])


def variants(device: torch.device) -> dict[str, Callable[..., Call]]:
    """How the step is made, the yardstick first."""
    return {
        YARDSTICK: yardstick_step,
        **{f"backend {name}": partial(our_step, backend=name) for name in backends(device)},
        **{name: partial(our_step, activation=kind) for name, kind in TWINS.items()},
    }


def measure_memory(case: Case, batch: int, device: torch.device, seconds: float) -> list[Row]:
    """Each size with all inner maps kept, and with its stages checkpointed."""
    rows = []
    for size in ("s", "m", "l") if device.type == "cuda" else (case["size"],):
        for again in (False, True):
            sized, options = {**case, "size": size}, {"checkpoint_stages": again}
            step = partial(our_step, sized, batch, device, **options)
            name = {"network": setting(sized), "stages": "checkpointed" if again else "kept"}
            name |= {"batch": batch, "predicted GiB": predicted_gib(sized, batch, **options)}
            rows.append({**name, **figures(step, batch, device, seconds)})
    return rows


def measure(given: Namespace) -> tuple[dict[str, Any], str]:
    device, seconds = given.device, given.seconds
    batch = given.batch or (64 if device.type == "cuda" else 2)
    first, *_ = every = cases(device)
    rows = [
        row for case in every for row in compared(variants(device), case, batch, device, seconds)
    ]
    memory = measure_memory(first, batch, device, seconds)
    kinds = time_by_kind(partial(our_step, first, batch, device), device)
    result = {
        "question": "SpikeYOLO's training step: images/s, peak memory, time by kind of work",
        "precision": str(PRECISION[device.type]),
        "rows": rows,
        "memory": memory,
        "kinds": kinds,
    }
    markdown = f"{table(rows)}\nMemory:\n\n{table(memory)}"
    return result, f"{markdown}\nTime by kind of work, {setting(first)}:\n\n{table(kinds)}"


if __name__ == "__main__":
    batch = {"type": int, "help": "64 on a GPU, 2 on a CPU"}
    main(__doc__, measure, {"--batch": batch, "--seconds": SECONDS})
