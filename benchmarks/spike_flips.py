"""How many spikes differ from float64 in float32 and bfloat16, neuron by neuron?

`python benchmarks/spike_flips.py` runs SpikeYOLO-s (Gen1, T=4) with the seeded weights of the
golden figures on random event frames, once in float64 and once in each precision, and writes
spike_flips_<device>_<date>.json and .md under benchmarks/results/. Two counts per neuron:
free: the network runs on with its own spikes, so every flip before is inherited;
forced: every neuron before passes on the spikes of float64, so the flips are its own.
"""

import importlib.util
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from common import Row, main, table
from torch import Tensor, nn

from models import build_model
from models.authors import tensor_names
from models.neuron import ILIFNode
from models.spikeyolo import SpikeYOLO

RULE = Path(__file__).parents[1] / "tests" / "golden" / "spikeyolo" / "rule.py"
PRECISIONS = ("float32", "bfloat16")
Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]


def golden_rule() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_rule", RULE)
    assert spec
    assert spec.loader
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


def neurons(height: int, width: int, device: torch.device) -> list[Row]:
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


def per_million(rows: list[Row]) -> list[Row]:
    """The shares times a million, with those over all elements in the last row."""
    columns = [f"{precision}_{kind}" for precision in PRECISIONS for kind in ("free", "forced")]
    total = sum(row["elements"] for row in rows)
    overall: Row = {"neuron": "**all**", "elements": total, "spikes_per_step": None}
    overall |= {c: sum(row[c] * row["elements"] for row in rows) / total for c in columns}
    return [{**row, **{c: 1e6 * row[c] for c in columns}} for row in [*rows, overall]]


def measure(given: Namespace) -> tuple[dict[str, Any], str]:
    rows = neurons(given.height, given.width, given.device)
    setting = (
        f"One random event frame sequence, {given.height}x{given.width} px, weights "
        "of tests/golden/spikeyolo/rule.py; bfloat16 through autocast, membranes in float32."
    )
    result = {
        "question": "Spikes that differ from float64, SpikeYOLO-s (Gen1, T=4, D=4)",
        "setting": setting,
        "neurons": rows,
    }
    meaning = (
        "Spike counts that differ, per million. free: flips before are inherited; forced: "
        "every neuron reads what float64 spikes give, so the flips are its own."
    )
    return result, f"{setting}\n\n{meaning}\n\n{table(per_million(rows))}"


if __name__ == "__main__":
    options = {
        "--height": {"type": int, "default": 256, "help": "network input in px"},
        "--width": {"type": int, "default": 320, "help": "network input in px"},
    }
    main(__doc__, measure, options)
