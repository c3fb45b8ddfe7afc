"""The results as text, for the terminal and the README."""

from typing import Any

from evaluation.provenance import thresholds


def results_table(metrics: dict[str, Any]) -> str:
    """Lines of mAP beside energy; `metrics` is what eval_gen1.py writes to metrics.json."""
    energy, network = metrics["energy"], metrics["network"]
    protocols = metrics["protocols"]
    title = (
        f"{metrics['model']}, T={energy['time_steps']}, D={energy['max_spikes']}, "
        f"{network['activation']}, split {metrics['split']}, commit {metrics['commit']}, "
        f"config {metrics['config_hash']}\ndetections: {thresholds(metrics['detect'])}"
    )
    rows = [("protocol", *protocols)]
    for label, column in (("mAP@50:95", 0), ("mAP@50", 1)):
        rows.append((label, *(ap_text(p["stats"][column]) for p in protocols.values())))
    for name in metrics["per_class"]:
        values = (ap_text(p["per_class"][name][1]) for p in protocols.values())
        rows.append((f"AP@50 {name}", *values))
    counts = (f"{p['labels']} / {p['images']}" for p in protocols.values())
    rows.append(("labels / frames", *counts))
    detection = "\n".join(f"  {row[0]:<18}" + "".join(f"{v:>14}" for v in row[1:]) for row in rows)
    detection += "".join(f"\n  without {p}: {why}" for p, why in metrics["left_out"].items())

    priced = "\n".join(f"  {name:<18}{value:>14}" for name, value in energy_rows(energy))
    health = "".join(f"\n\nwarning: {sentence}" for sentence in firing_health(energy))
    skipped = ", zeros of the input skipped" if energy["sparse_input"] else ""
    return f"{title}\n\n{detection}\n\nper inference{skipped}\n{priced}{health}"


def energy_rows(energy: dict[str, Any]) -> list[tuple[str, str]]:
    """(name, figure with unit) of one inference."""
    rate = energy["firing_rate"]
    return [
        ("MAC", f"{energy['mac'] / 1e9:.4f} G"),
        ("AC", f"{energy['ac'] / 1e9:.4f} G"),
        ("firing rate", "-" if rate is None else f"{rate:.3f}"),
        ("energy", f"{energy['snn_mj']:.4f} mJ"),
        ("ANN-equivalent", f"{energy['ann_mj']:.4f} mJ"),
        ("ANN / this", f"{energy['ratio']:.2f}"),
        ("with memory", f"{energy['snn_mj_with_memory']:.3f} mJ"),
        ("ANN with memory", f"{energy['ann_mj_with_memory']:.3f} mJ"),
    ]


SILENT, SATURATED = 0.001, 0.9


def firing_health(energy: dict[str, Any], shown: int | None = None) -> list[str]:
    """Sentences naming layers whose input hardly ever fires, or fires nearly all it can.

    `shown`: so many names at most, then a count of the rest.
    """
    rates = {
        la["name"]: la["firing_rate"] for la in energy["layers"] if la["firing_rate"] is not None
    }
    found = {
        f"below {SILENT:.1%}": [name for name, rate in rates.items() if rate < SILENT],
        f"above {SATURATED:.0%}": [name for name, rate in rates.items() if rate > SATURATED],
    }
    return [
        f"{len(names)} of {len(rates)} layers read spikes at a rate {rule}: {_listed(names, shown)}"
        for rule, names in found.items()
        if names
    ]


def _listed(names: list[str], shown: int | None) -> str:
    rest = len(names[shown:]) if shown else 0
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest else "")


def ap_text(value: float) -> str:
    """An average precision; "-" where no label defines it."""
    return "-" if value < 0 else f"{value:.3f}"
