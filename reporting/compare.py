"""Several evaluations of the same recordings in one table and one picture."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

COLUMNS = (
    "run", "model", "T", "D", "parameters", "mAP@50:95", "mAP@50", "GMAC", "GAC", "firing",
    "mJ", "ANN / this", "mJ with memory", "ms",
)  # fmt: skip


def read_metrics(path: Path) -> dict[str, Any]:
    """metrics.json of an evaluation's directory, or of the `test` directory inside a run.

    Raises ValueError if there is none, or it is not what eval_gen1.py writes.
    """
    for directory in (path, path / "test"):
        if (file := directory / "metrics.json").is_file():
            break
    else:
        raise ValueError(f"{path}: holds no metrics.json, evaluate it with eval_gen1.py first")
    try:
        metrics: dict[str, Any] = json.loads(file.read_text())
    except ValueError:
        metrics = {}
    if not {"energy", "protocols", "recordings_crc32", "latency_ms"} <= set(metrics):
        raise ValueError(f"{file}: is not what eval_gen1.py writes, evaluate again")
    return metrics


def refuse_unequal(runs: dict[str, dict[str, Any]]) -> None:
    """ValueError unless every evaluation scored the same split of the same recordings."""
    (first, expected), *others = runs.items()
    for name, metrics in others:
        for key in ("split", "recordings_crc32", "detect"):
            if metrics[key] != expected[key]:
                raise ValueError(
                    f"{name}: {key} is {metrics[key]}, that of {first} is {expected[key]}: "
                    "only evaluations of the same recordings and thresholds can be compared"
                )


def row(name: str, metrics: dict[str, Any], protocol: str) -> tuple[str, ...]:
    energy, stats = metrics["energy"], metrics["protocols"][protocol]["stats"]
    return (
        name,
        f"{metrics['model']} {metrics['network']['activation']}",
        str(energy["time_steps"]),
        str(energy["max_spikes"]),
        f"{metrics['parameters'] / 1e6:.2f} M",
        f"{stats[0]:.3f}",
        f"{stats[1]:.3f}",
        f"{energy['mac'] / 1e9:.3f}",
        f"{energy['ac'] / 1e9:.3f}",
        "-" if energy["firing_rate"] != energy["firing_rate"] else f"{energy['firing_rate']:.3f}",
        f"{energy['snn_mj']:.3f}",
        f"{energy['ratio']:.2f}",
        f"{energy['snn_mj_with_memory']:.2f}",
        f"{metrics['latency_ms']:.1f}",
    )


def comparison_table(runs: dict[str, dict[str, Any]], protocol: str) -> str:
    """Markdown: a row per evaluation, mAP under `protocol`."""
    first = next(iter(runs.values()))
    title = f"split {first['split']}, protocol {protocol}, per inference ({first['device']})"
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    rows += [row(name, metrics, protocol) for name, metrics in runs.items()]
    return "\n".join([title, "", *("| " + " | ".join(cells) + " |" for cells in rows)])


def accuracy_over_energy(runs: dict[str, dict[str, Any]], protocol: str) -> Figure:
    """mAP@50:95 against energy per inference, a point per evaluation."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, metrics in runs.items():
        x, y = metrics["energy"]["snn_mj"], metrics["protocols"][protocol]["stats"][0]
        axes.scatter(x, y, s=40)
        axes.annotate(name, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=9)
    axes.set(xscale="log", xlabel="energy per inference (mJ)", ylabel="mAP@50:95")
    axes.set_title(f"protocol {protocol}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.margins(0.15)
    return figure
