"""How many spikes differ from float64 in float32 and bfloat16, neuron by neuron?

`python benchmarks/spike_flips.py` runs SpikeYOLO-s (Gen1, T=4) with the seeded weights of the
golden figures on random event frames, once in float64 and once in each precision, and writes
spike_flips_<device>_<date>.json and .md under benchmarks/results/. Two counts per neuron:
free: the network runs on with its own spikes, so every flip before is inherited;
forced: every neuron before passes on the spikes of float64, so the flips are its own.
"""

import argparse
import datetime
import importlib.util
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from evaluation.provenance import commit, environment  # noqa: E402
from models import build_model  # noqa: E402
from models.authors import tensor_names  # noqa: E402
from models.neuron import ILIFNode  # noqa: E402
from models.spikeyolo import SpikeYOLO  # noqa: E402

PRECISIONS = ("float32", "bfloat16")
Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]


def golden_rule() -> ModuleType:
    path = ROOT / "tests" / "golden" / "spikeyolo" / "rule.py"
    spec = importlib.util.spec_from_file_location("golden_rule", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seeded_model(rule: ModuleType) -> SpikeYOLO:
    """SpikeYOLO-s (Gen1) in float64, with the weights of the golden figures."""
    model = build_model("spikeyolo-s", variant="gen1", in_channels=3).double().eval()
    theirs = tensor_names(model)
    model.load_state_dict(
        {
            name: torch.as_tensor(rule.tensor_for(theirs[name], tensor.shape, 1.8, 0.1))
            for name, tensor in model.state_dict().items()
        }
    )
    return model


@torch.no_grad()
def forward(model: SpikeYOLO, x: Tensor, hook: Callable[[str], Hook]) -> list[Tensor]:
    """One forward with `hook(name)` on every neuron."""
    nodes = [(name, m) for name, m in model.named_modules() if isinstance(m, ILIFNode)]
    handles = [node.register_forward_hook(hook(name)) for name, node in nodes]
    maps = model(x)
    for handle in handles:
        handle.remove()
    return maps


def flips(model: SpikeYOLO, x: Tensor, truth: dict[str, Tensor], forced: bool) -> dict[str, float]:
    """Share of spike counts [T, B, C, H, W] that differ from the truth, by neuron."""
    shares = {}

    def compare(name: str) -> Hook:
        def hook(_node: nn.Module, _inputs: tuple[Tensor, ...], spikes: Tensor) -> Tensor | None:
            exact = truth[name].to(x.device, spikes.dtype)
            shares[name] = (spikes != exact).double().mean().item()
            return exact if forced else None

        return hook

    forward(model, x, compare)
    return shares


def measure(height: int, width: int, device: torch.device) -> list[dict[str, object]]:
    """One row per neuron: its name, size, spikes per step and share of flips per precision."""
    rule = golden_rule()
    frames = torch.as_tensor(rule.image("spike_flips", (4, 1, 1, height, width), event=True))
    x = frames.expand(-1, -1, 3, -1, -1).contiguous().to(device)
    model = seeded_model(rule).to(device)
    truth: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        def hook(_node: nn.Module, _inputs: tuple[Tensor, ...], spikes: Tensor) -> None:
            truth[name] = spikes.to("cpu", torch.uint8)

        return hook

    forward(model, x, keep)
    columns = {}
    model, x = model.float(), x.float()
    for precision in PRECISIONS:
        for forced in (False, True):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                shares = flips(model, x, truth, forced)
            columns[f"{precision}_{'forced' if forced else 'free'}"] = shares
    return [
        {
            "neuron": name,
            "elements": spikes.numel(),
            "spikes_per_step": spikes.double().mean().item(),
            **{column: shares[name] for column, shares in columns.items()},
        }
        for name, spikes in truth.items()
    ]


def as_markdown(result: dict) -> str:
    """The table, with the overall shares (over all elements) in its last row."""
    rows = result["neurons"]
    columns = [key for key in rows[0] if key.endswith(("_free", "_forced"))]
    total = sum(row["elements"] for row in rows)
    overall = {c: sum(row[c] * row["elements"] for row in rows) / total for c in columns}
    lines = [
        f"# {result['question']}",
        "",
        f"{result['setting']} {result['hardware']}, {result['date']}, commit {result['commit']}, "
        f"torch {result['environment']['torch']}.",
        "",
        "Spike counts that differ, per million. free: flips before are inherited; forced: "
        "every neuron reads what float64 spikes give, so the flips are its own.",
        "",
        "| neuron | elements | spikes/step | " + " | ".join(columns) + " |",
        "| --- | --: | --: |" + " --: |" * len(columns),
    ]
    for row in rows:
        shares = " | ".join(f"{1e6 * row[c]:,.1f}" for c in columns)
        lines.append(
            f"| {row['neuron']} | {row['elements']:,} | {row['spikes_per_step']:.4f} | {shares} |"
        )
    shares = " | ".join(f"{1e6 * overall[c]:,.1f}" for c in columns)
    lines.append(f"| **all** | {total:,} | | {shares} |")
    return "\n".join(lines) + "\n"


def processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({len(names)} threads)" if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--height", type=int, default=256, help="network input in px")
    parser.add_argument("--width", type=int, default=320, help="network input in px")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    date = datetime.date.today().isoformat()
    result = {
        "question": "Spikes that differ from float64, SpikeYOLO-s (Gen1, T=4, D=4)",
        "setting": f"One random event frame sequence, {given.height}x{given.width} px, weights "
        "of tests/golden/spikeyolo/rule.py; bfloat16 through autocast, membranes in float32.",
        "hardware": processor(given.device),
        "date": date,
        "commit": commit(),
        "environment": environment(),
        "neurons": measure(given.height, given.width, given.device),
    }
    given.output.mkdir(parents=True, exist_ok=True)
    stem = given.output / f"spike_flips_{given.device.type}_{date}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(as_markdown(result))
    print(as_markdown(result))


if __name__ == "__main__":
    main()
