"""Checkpoint + cache + masks -> mIoU beside energy, and a report with pictures."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import BatchSampler
from tqdm import tqdm

from evaluation.metrics import latency_ms
from evaluation.provenance import commit, config_hash, environment
from evaluation.report import write_page
from gen1.atomic import atomic_write, make_way, make_writable
from models.checkpoint import Checkpoint, checkpoint_file, load_model
from models.choices import refuse_unknown_choices
from models.detector import DetectorNetwork, refuse_other_task
from models.device import pick_device
from models.energy import EnergyReport, measure_energy
from preprocessing.dataset import Loader
from preprocessing.geometry import Geometry
from preprocessing.inputs import check_input, input_of
from segmentation.dataset import MaskDataset, stack
from segmentation.predict import confusion_of, spread_out
from segmentation.report import figures_of, page_of
from segmentation.score import ABSENT_RULES, Scores
from segmentation.spec import mask_spec_from


@dataclass(frozen=True)
class MaskEvalConfig:
    """Score a network on the masks of one split, and price one inference.

    Args:
        checkpoint: Checkpoint file of `python -m segmentation.train`, or a run directory.
        cache: Directory that `python -m preprocessing` wrote.
        masks: Folder of the masks, {train,val,test}/NAME_masks/TIME.png.
        output: Directory for metrics.json, confusion.npy and report/.
        split: Which recordings.
        batch_size: Samples per forward.
        workers: Processes that read the cache; 0 reads in this one.
        device: "auto", "cpu" or "cuda".
        energy_samples: Samples over which spikes are counted; 0 counts all of the split.
        pictures: Samples drawn in the report.
    """

    checkpoint: Path
    cache: Path
    masks: Path
    output: Path
    split: Literal["test", "val", "train"] = "test"
    batch_size: int = 16
    workers: int = 0
    device: str = "auto"
    energy_samples: int = 64
    pictures: int = 6

    def __post_init__(self) -> None:
        for name in ("checkpoint", "cache", "masks", "output"):  # text will do
            object.__setattr__(self, name, Path(getattr(self, name)))
        refuse_unknown_choices(self)
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, expected 1 or more")


def open_masks(config: MaskEvalConfig, checkpoint: Checkpoint) -> MaskDataset:
    """The split as the network of a checkpoint reads it, with the classes it has learnt.

    Raises ValueError for a network of another task, and for masks of other classes.
    """
    refuse_other_task(checkpoint.config, "segmentation", config.checkpoint)
    histogram, kind, _ = input_of(checkpoint.meta, config.checkpoint)
    check_input(checkpoint.config.in_channels, checkpoint.config.time_steps, histogram, kind)
    learnt = mask_spec_from(checkpoint.meta["masks"], str(config.checkpoint))
    geometry = Geometry(histogram.height, histogram.width, histogram.downsample)
    dataset = MaskDataset(
        config.cache, config.masks, config.split, geometry, settings=histogram, input=kind
    )
    if dataset.spec.classes != learnt.classes:
        found = f"{config.masks}: has the classes {', '.join(dataset.spec.classes)}"
        raise ValueError(f"{found}, expected {', '.join(learnt.classes)} of {config.checkpoint}")
    return dataset


def energy_of(model: DetectorNetwork, dataset: MaskDataset, config: MaskEvalConfig) -> EnergyReport:
    """The price of an inference, counted over samples spread over the split."""
    device = next(model.parameters()).device
    chosen = spread_out(dataset, config.energy_samples)
    cut = list(BatchSampler(chosen, config.batch_size, drop_last=False))
    batches = Loader(dataset, cut, config.workers, stack)
    shown = tqdm(batches, "counting spikes", unit="batch", leave=False, disable=None)
    return measure_energy(model, (batch.to(device).network_input() for batch in shown))


def metrics_of(
    config: MaskEvalConfig,
    checkpoint: Checkpoint,
    dataset: MaskDataset,
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
        "cache": str(config.cache),
        "split": config.split,
        "protocol": ABSENT_RULES[0],
        "protocols": {
            rule: {"stats": [scores.miou[rule], scores.pixel_accuracy], "images": len(dataset)}
            for rule in ABSENT_RULES
        },
        "scores": plain,
        "left_out": {},
        "energy": energy.as_dict(),
        **measured,
        "detect": {},
        "network": {k: v for k, v in asdict(checkpoint.config).items() if k != "name"},
        "trained": {key: meta.get(key) for key in ("epoch", "seed", "commit", "settings")},
        "histogram": meta["histogram"],
        "input": meta["input"],
        "masks": dataset.spec.as_dict(),
        "commit": commit(),
        "environment": environment(),
    }
    return {**metrics, "config_hash": config_hash(metrics)}


def run(config: MaskEvalConfig) -> tuple[dict[str, Any], Scores]:
    """Evaluate, write metrics.json, confusion.npy and report/; what was found."""
    device = pick_device(config.device)
    model, checkpoint = load_model(checkpoint_file(config.checkpoint))
    dataset = open_masks(config, checkpoint)
    make_writable(config.output / "report")
    make_way(config.output / "metrics.json")
    model.to(device)
    confusion = confusion_of(model, dataset, config.batch_size, config.workers)
    scores = confusion.scores()
    energy = energy_of(model, dataset, config)
    x = stack([dataset[0]]).to(device).network_input()
    measured = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "latency_ms": latency_ms(model, x),
        "device": str(device),
        "recordings_crc32": dataset.checksum(),
    }
    metrics = metrics_of(config, checkpoint, dataset, scores, energy, measured)
    with atomic_write(config.output / "confusion.npy") as file:
        np.save(file, confusion.matrix)
    with atomic_write(config.output / "metrics.json") as file:
        file.write(json.dumps(metrics, indent=2).encode())
    figures = figures_of(model, dataset, spread_out(dataset, config.pictures), confusion, energy)
    write_page(config.output / "report", metrics, figures, page_of(metrics, scores))
    return metrics, scores
