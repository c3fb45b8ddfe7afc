"""Checkpoint + cache + masks -> mIoU beside energy, and a report with pictures."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from evaluation.detect import spread_out
from evaluation.metrics import latency_ms
from evaluation.provenance import commit, config_hash, environment
from evaluation.report import write_page
from gen1.atomic import atomic_write, make_way, make_writable, write_json
from models.checkpoint import Checkpoint, checkpoint_file, load_model
from models.choices import refuse_below, refuse_unknown_choices
from models.detector import DetectorNetwork, refuse_other_task
from models.device import pick_device
from models.energy import EnergyReport, measure_energy
from preprocessing.dataset import Loader
from preprocessing.inputs import input_of
from segmentation.predict import confusion_of, cut
from segmentation.report import figures_of, page_of
from segmentation.score import ABSENT_RULES, Scores
from segmentation.sources import SourceConfig, ToScore, open_to_score
from segmentation.spec import mask_spec_from


@dataclass(frozen=True, kw_only=True)
class MaskEvalConfig(SourceConfig):
    """Score a network on the masks of one split, and price one inference.

    Args:
        checkpoint: Checkpoint file of `python -m segmentation.train`, or a run directory.
        output: Directory for metrics.json, confusion.npy and report/.
        split: Which recordings or pictures.
        side: Shorter side of pictures in px, 0 as they are.
        batch_size: Samples per forward.
        workers: Processes that read the samples; 0 reads in this one.
        device: "auto", "cpu" or "cuda".
        energy_samples: Samples over which spikes are counted; 0 counts all of the split.
        examples: Samples drawn in the report; 0 draws none.
    """

    checkpoint: Path
    output: Path
    split: Literal["test", "val", "train"] = "test"
    side: int = 512
    batch_size: int = 16
    workers: int = 0
    device: str = "auto"
    energy_samples: int = 64
    examples: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("checkpoint", "output"):  # text will do
            object.__setattr__(self, name, Path(getattr(self, name)))
        refuse_unknown_choices(self)
        refuse_below(1, self, "batch_size")
        refuse_below(0, self, "energy_samples", "examples")


def open_source(config: MaskEvalConfig, checkpoint: Checkpoint) -> ToScore:
    """The split as the network of a checkpoint reads it, with the classes it has learnt.

    The authors' files say of no classes, only how many. Raises ValueError for a network of another
    task or of other data, and for other classes.
    """
    refuse_other_task(checkpoint.config, "segmentation", config.checkpoint)
    meta, histogram = checkpoint.meta, None
    if config.cache is not None:
        histogram, _, _ = input_of(meta, config.checkpoint)
    elif meta.get("histogram"):
        raise ValueError(f"{config.checkpoint}: was trained on events, expected a cache")
    source = open_to_score(config, checkpoint.config, config.split, config.side, histogram)
    if not meta.get("masks"):
        return source
    learnt = mask_spec_from(meta["masks"], str(config.checkpoint))
    if source.spec.classes != learnt.classes:
        found = f"{source.name}: has the classes {', '.join(source.spec.classes)}"
        raise ValueError(f"{found}, expected {', '.join(learnt.classes)} of {config.checkpoint}")
    return source


def energy_of(model: DetectorNetwork, source: ToScore, config: MaskEvalConfig) -> EnergyReport:
    """The price of an inference, counted over samples spread over the split."""
    device = next(model.parameters()).device
    chosen = spread_out(len(source), config.energy_samples or len(source))
    rows = cut(source, chosen, config.batch_size)
    batches = Loader(source, rows, config.workers, source.stack)  # type: ignore[arg-type]
    shown = tqdm(batches, "counting spikes", unit="batch", leave=False, disable=None)
    return measure_energy(model, (batch.to(device).network_input() for batch in shown))


def metrics_of(
    config: MaskEvalConfig,
    checkpoint: Checkpoint,
    source: ToScore,
    scores: Scores,
    energy: EnergyReport,
    measured: dict[str, Any],
) -> dict[str, Any]:
    """Everything measured and the rule behind it, as plain data for metrics.json.

    The two rules for absent classes stand where detection has its protocols.
    """
    meta, plain = checkpoint.meta, scores.as_dict()
    metrics = {
        "model": checkpoint.config.name,
        "checkpoint": str(config.checkpoint),
        "kind": checkpoint.kind,
        "task": "segmentation",
        "cache": str(config.cache or config.pictures),
        "split": config.split,
        "protocol": ABSENT_RULES[0],
        "protocols": {
            rule: {"stats": [scores.miou[rule], scores.pixel_accuracy], "images": len(source)}
            for rule in ABSENT_RULES
        },
        "scores": plain,
        "left_out": {},
        "energy": energy.as_dict(),
        **measured,
        "detect": {},
        "network": {k: v for k, v in asdict(checkpoint.config).items() if k != "name"},
        "trained": {key: meta.get(key) for key in ("epoch", "seed", "commit", "settings")},
        "histogram": meta.get("histogram") or {},
        "input": meta["input"] if config.cache else f"pictures, {config.side} px",
        "masks": source.spec.as_dict(),
        "commit": commit(),
        "environment": environment(),
    }
    return {**metrics, "config_hash": config_hash(metrics)}


def run(config: MaskEvalConfig) -> tuple[dict[str, Any], Scores]:
    """Evaluate, write metrics.json, confusion.npy and report/; what was found."""
    device = pick_device(config.device)
    model, checkpoint = load_model(checkpoint_file(config.checkpoint))
    source = open_source(config, checkpoint)
    make_writable(config.output / "report")
    make_way(config.output / "metrics.json")
    model.to(device)
    confusion = confusion_of(model, source, config.batch_size, config.workers)
    scores = confusion.scores()
    energy = energy_of(model, source, config)
    x = source.stack([source[0]]).to(device).network_input()
    measured = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "latency_ms": latency_ms(model, x),
        "device": str(device),
        "recordings_crc32": source.checksum(),
    }
    metrics = metrics_of(config, checkpoint, source, scores, energy, measured)
    with atomic_write(config.output / "confusion.npy") as file:
        np.save(file, confusion.matrix)
    write_json(config.output / "metrics.json", metrics)
    figures = figures_of(model, source, spread_out(len(source), config.examples), confusion, energy)
    write_page(config.output / "report", metrics, figures, page_of(metrics, scores))
    return metrics, scores
