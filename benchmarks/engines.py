"""How fast is a deployed network in torch, onnxruntime and onnxruntime with int8 weights?

`python benchmarks/engines.py` measures the forward of sizes p and n at 256x320 px, T=4, D=4, batch
1, frames in, raw maps out, on a CPU: torch float32, onnxruntime float32 and onnxruntime int8. The
engines take turns, call by call, so that what else the machine does meets all alike; given are the
median and the fastest call, the dense multiply-accumulates of a window, how many of them a second
is (from the fastest), and how many a stream of 20 windows a second would take. `--checkpoint` with
`--cache` (as `python -m preprocessing` writes it) adds what rounding costs in mAP on its test
split. Writes engines_cpu_<date>.json and .md under benchmarks/results/.
"""

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.append(sys.path.pop(0))  # else rooms of a script's name would be hidden

import torch
from common import Row, main, table
from networks import Case, event_frames, network, setting

from evaluation.detect import detect, open_split
from evaluation.metrics import score
from models.checkpoint import checkpoint_file, load_model
from models.decode import DetectConfig
from models.deploy import deploy
from models.detector import DetectorNetwork
from models.export.engine import OnnxNetwork
from models.export.quantise import Scales, quantise, rounded_twin
from models.export.trace import trace
from preprocessing.inputs import input_of

WINDOWS_PER_S = 20
CPU = torch.device("cpu")
FEATURES = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8")


def features() -> str:
    """Which of the processor's instructions for small integers there are."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return ", ".join(name for name in FEATURES if name in flags) or "unknown"


def gmac(deployed: DetectorNetwork, size_hw: tuple[int, int]) -> float:
    """Dense multiply-accumulates of one window, in G."""
    graph = trace(deployed, size_hw)
    macs = 0
    for layer in graph.layers:
        if layer.kind == "conv":
            _, height, width = layer.shape
            macs += layer.steps * height * width * graph.weights[layer.name].weight.size
    return macs / 1e9


def in_turn(
    calls: dict[str, Callable[[], object]], seconds: float, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Milliseconds of every call after two of each; for `seconds` of the wall per engine."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    until = time.perf_counter() + seconds * len(calls)
    while time.perf_counter() < until or not times[next(iter(times))]:
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(1e3 * (clock() - start))
    return times


@torch.no_grad()
def speed(case: Case, given: Namespace) -> list[Row]:
    """One row per engine, all of the same weights and input."""
    size_hw = case["height"], case["width"]
    model = deploy(network(case).eval())
    x = event_frames(case, 1, CPU)
    fast = model.to(memory_format=torch.channels_last)
    calls: dict[str, Callable[[], object]] = {"torch float32": partial(fast, x)}
    for precision in ("float32", "int8"):
        engine = OnnxNetwork(model, size_hw, precision, threads=given.threads)  # type: ignore[arg-type]
        calls[f"onnxruntime {precision}"] = partial(engine, x)
    clock = time.process_time if given.clock == "cpu" else time.perf_counter
    times, work = in_turn(calls, given.seconds, clock), gmac(model, size_hw)
    rows = []
    for name, found in times.items():
        best, middle = min(found), median(found)
        rows.append(
            {
                "network": setting(case),
                "engine": name,
                "GMAC": work,
                "median ms": middle,
                "fastest ms": best,
                "windows/s": 1e3 / middle,
                "GMAC/s": 1e3 * work / best,
                f"GMAC/s for {WINDOWS_PER_S} windows/s": WINDOWS_PER_S * work,
                "speed-up": median(times["torch float32"]) / middle,
            }
        )
    return rows


def accuracy(checkpoint: Path, cache: Path) -> list[Row]:
    """mAP of a checkpoint on the test split, as it is and with rounded weights."""
    model, loaded = load_model(checkpoint_file(checkpoint))
    settings, kind, spec = input_of(loaded.meta, checkpoint)
    dataset = open_split(cache, "test", loaded.config, settings, kind, spec)
    deployed = deploy(model)
    graph = trace(deployed, dataset.geometry.network_hw)
    forms: dict[str, Scales | None] = {
        "float32": None,
        "int8": "float",
        "int8, scales 2**-k": "power-of-two",
    }
    rows: list[Row] = []
    for name, scales in forms.items():
        twin = deployed if scales is None else rounded_twin(deployed, quantise(graph, scales))
        found = detect(twin, dataset, DetectConfig(), 16, 0, CPU)
        scored = score(dataset, found, spec.protocol)
        points = {"mAP@50:95": 100 * scored.map_50_95, "mAP@50": 100 * scored.map_50}
        rows.append({"weights": name, "label times": len(dataset), **points})
    return [{**row, "loss": rows[0]["mAP@50:95"] - row["mAP@50:95"]} for row in rows]


def measure(given: Namespace) -> tuple[dict[str, Any], str]:
    if given.clock == "cpu" and given.threads != 1:
        raise SystemExit("--clock cpu counts waiting threads, expected --threads 1")
    torch.set_num_threads(given.threads)
    shape = {"height": given.height, "width": given.width, "time_steps": 4, "max_spikes": 4}
    rows = []
    for size in given.sizes:
        rows += speed({"size": size, **shape}, given)
    result = {
        "question": "A deployed network in torch, onnxruntime and onnxruntime with int8 weights",
        "instructions": features(),
        "threads": given.threads,
        "clock": given.clock,
        "rows": rows,
    }
    text = (
        f"Threads: {given.threads}; clock: {given.clock}; instructions: {features()}.\n\n"
        f"{table(rows)}"
    )
    if given.checkpoint and given.cache:
        result["accuracy"] = accuracy(given.checkpoint, given.cache)
        text += f"\n## What rounding costs: {given.checkpoint}\n\n{table(result['accuracy'])}"
    return result, text


if __name__ == "__main__":
    options = {
        "--sizes": {"default": ["p", "n"], "nargs": "+", "choices": list("pnsml")},
        "--height": {"type": int, "default": 256, "help": "network input in px"},
        "--width": {"type": int, "default": 320, "help": "network input in px"},
        "--threads": {"type": int, "default": 2, "help": "of every engine"},
        "--clock": {
            "default": "wall",
            "choices": ["wall", "cpu"],
            "help": "cpu: time of the processor alone, on a machine that others use, too",
        },
        "--seconds": {"type": float, "default": 10.0, "help": "of the wall per engine"},
        "--checkpoint": {"type": Path, "help": "whose mAP is measured, with --cache"},
        "--cache": {"type": Path, "help": "its test split"},
    }
    main(__doc__, measure, options)
