"""How long does one training step and one inference of SpikeYOLO take with each neuron backend?

`python benchmarks/training_step.py` measures SpikeYOLO-s at 256x320 px, T=4, D=2 and at 320x320
px, T=2, D=4, in bf16 and channels_last, weights drawn at random: a step of training (forward
under autocast, loss, backward, clipped SGD), and the deployed network without gradients, batch 1
for latency and a large batch for throughput. Figures are compared within one run only. On a CPU,
size p with a tiny image in float32 shows that the script runs. Writes
training_step_<device>_<date>.json and .md under benchmarks/results/.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, median_ms, table, write
from torch import Tensor, nn

from models import build_model
from models.deploy import deploy
from models.kernels.launch import obstacle
from models.loss import DetectionLoss
from models.neuron import ILIFNode
from models.spikeyolo import SpikeYOLO
from training.optim import OptimConfig, build_optimizer

CASES = (
    {"size": "s", "height": 256, "width": 320, "time_steps": 4, "max_spikes": 2},
    {"size": "s", "height": 320, "width": 320, "time_steps": 2, "max_spikes": 4},
)
SMALL_CASES = ({"size": "p", "height": 32, "width": 64, "time_steps": 2, "max_spikes": 4},)
YARDSTICK = "spikingjelly"
PRECISION = {"cuda": torch.bfloat16, "cpu": torch.float32}


def backends(device: torch.device) -> list[str]:
    return [YARDSTICK, "torch", *(["cupy"] if obstacle(device.type) is None else [])]


def network(case: dict[str, Any], backend: str, device: torch.device) -> SpikeYOLO:
    """The same weights for every backend; states are dropped, as they are after every forward."""
    torch.manual_seed(0)
    settings = {key: case[key] for key in ("time_steps", "max_spikes")}
    model = build_model(f"spikeyolo-{case['size']}", variant="gen1", backend=backend, **settings)
    for node in model.modules():
        if isinstance(node, ILIFNode):
            node.keep_state = False
    return model.to(device, memory_format=torch.channels_last)


def event_frames(case: dict[str, Any], batch: int, device: torch.device) -> Tensor:
    """Random event counts x [T, B, 2, H, W], about a third of the pixels hit."""
    shape = (case["time_steps"], batch, 2, case["height"], case["width"])
    return torch.poisson(torch.full(shape, 0.4, device=device))


def labels(case: dict[str, Any], batch: int, device: torch.device) -> Tensor:
    """Two boxes per image: rows (image, class, x1, y1, x2, y2) in px."""
    h, w = case["height"], case["width"]
    boxes = [[0, 0.1 * w, 0.1 * h, 0.5 * w, 0.4 * h], [1, 0.6 * w, 0.3 * h, 0.8 * w, 0.9 * h]]
    return torch.tensor([[i, *box] for i in range(batch) for box in boxes], device=device)


def peak_gib(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def start_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def measure_training(
    model: SpikeYOLO, case: dict[str, Any], batch: int, device: torch.device, seconds: float
) -> dict[str, Any]:
    recipe = OptimConfig()
    optimizer = build_optimizer(model, recipe, batch)
    criterion = DetectionLoss(model.config.num_classes)
    frames, targets = event_frames(case, batch, device), labels(case, batch, device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            maps = model(frames)
        loss, _ = criterion([m.float() for m in maps], targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()

    model.train()
    start_peak(device)
    return _row("training step", batch, median_ms(step, device, seconds), device)


@torch.no_grad()
def measure_inference(
    model: SpikeYOLO, case: dict[str, Any], batch: int, device: torch.device, seconds: float
) -> dict[str, Any]:
    dtype = PRECISION[device.type]
    deployed = deploy(model).to(dtype)
    frames = event_frames(case, batch, device).to(dtype)
    start_peak(device)
    milliseconds = median_ms(lambda: deployed(frames), device, seconds)
    return _row("inference", batch, milliseconds, device)


def _row(task: str, batch: int, milliseconds: float, device: torch.device) -> dict[str, Any]:
    return {
        "task": task,
        "batch": batch,
        "ms": milliseconds,
        "images/s": 1e3 * batch / milliseconds,
        "peak GiB": peak_gib(device),
    }


def measure_case(
    case: dict[str, Any], batch: int, device: torch.device, seconds: float
) -> list[dict[str, Any]]:
    """Training at `batch`, inference at 1 and `batch`; speed-up beside the yardstick's row."""
    setting = "spikeyolo-{size} {height}x{width} T={time_steps} D={max_spikes}".format(**case)
    rows, yardstick = [], {}
    for backend in backends(device):
        model = network(case, backend, device)
        figures = [measure_inference(model, case, b, device, seconds) for b in sorted({1, batch})]
        figures.append(measure_training(model, case, batch, device, seconds))
        for row in figures:
            task = row["task"], row["batch"]
            yardstick.setdefault(task, row["ms"])
            speed_up = yardstick[task] / row["ms"]
            rows.append({"network": setting, "backend": backend, **row, "speed-up": speed_up})
    return rows


def main() -> None:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=torch.device, default=torch.device(default))
    parser.add_argument("--batch", type=int, help="64 on a GPU, 2 on a CPU")
    parser.add_argument("--seconds", type=float, default=3.0, help="of calls per figure")
    parser.add_argument("--output", type=Path, default=RESULTS)
    given = parser.parse_args()
    gpu = given.device.type == "cuda"
    batch = given.batch or (64 if gpu else 2)
    rows = []
    for case in CASES if gpu else SMALL_CASES:
        rows += measure_case(case, batch, given.device, given.seconds)
    question = "SpikeYOLO's training step and inference with each neuron backend"
    precision = str(PRECISION[given.device.type])
    result = {"question": question, "precision": precision, "rows": rows}
    path = write("training_step", result, table(rows), given.device, given.output)
    print(path.read_text())


if __name__ == "__main__":
    main()
