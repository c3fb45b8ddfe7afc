"""Checkpoint + COCO-format pictures -> COCO's figures beside energy, a report with pictures."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from evaluation.metrics import latency_ms
from evaluation.provenance import commit, config_hash, environment
from gen1.atomic import make_writable, write_json
from images.batches import Batch, ToScore
from images.coco import ImageSet, read_coco
from images.report import write_report
from images.score import RULE, CocoMetrics, scores_of
from models import build_network
from models.authors import convert_state_dict, infer_config
from models.authors.files import read_authors_file
from models.checkpoint import Checkpoint, checkpoint_file, load_model, load_weights
from models.choices import refuse_below
from models.decode import DetectConfig, non_max_suppression
from models.detector import DetectorNetwork, refuse_other_task
from models.device import pick_device
from models.energy import EnergyReport, measure_energy

#: Rows x1 y1 x2 y2 score class in px of the original, by a picture's id.
Found = dict[int, np.ndarray]


@dataclass(frozen=True)
class ImageEvalConfig:
    """Score a network on pictures with COCO's own rule.

    Args:
        checkpoint: Checkpoint of ours, a run directory, or the authors' published .pt.
        images: Folder of the pictures.
        annotations: COCO's instances json of them.
        output: Directory for metrics.json, detections.json and report/.
        side: Longer side of a picture for the network, in px.
        square: One square canvas for all, instead of one for pictures of like shape.
        batch_size: Pictures per forward.
        device: "auto", "cpu" or "cuda".
        energy_samples: Pictures over which spikes are counted; 0 counts all.
        pictures: Pictures drawn in the report.
        detect: Thresholds of the detections.
    """

    checkpoint: Path
    images: Path
    annotations: Path
    output: Path
    side: int = 640
    square: bool = False
    batch_size: int = 16
    device: str = "auto"
    energy_samples: int = 128
    pictures: int = 6
    detect: DetectConfig = field(default_factory=DetectConfig)

    def __post_init__(self) -> None:
        for name in ("checkpoint", "images", "annotations", "output"):  # text will do
            object.__setattr__(self, name, Path(getattr(self, name)))
        refuse_below(1, self, "side", "batch_size")


def load_network(path: Path, images: ImageSet) -> tuple[DetectorNetwork, Checkpoint]:
    """A network of pictures for the categories of a set.

    Raises ValueError for one that reads events, and for another number of classes.
    """
    model, checkpoint = load_detector(path)
    config = checkpoint.config
    if config.num_classes != len(images.categories):
        found = f"{path}: has {config.num_classes} classes"
        raise ValueError(f"{found}, expected {len(images.categories)}, as {images.name}")
    return model, checkpoint


def load_detector(path: Path) -> tuple[DetectorNetwork, Checkpoint]:
    """A network that finds objects in pictures, ours or theirs; ValueError for any other."""
    model, checkpoint = load_ours_or_theirs(checkpoint_file(path))
    refuse_other_task(checkpoint.config, "detection", path)
    if checkpoint.meta.get("histogram") or checkpoint.config.in_channels != 3:
        raise ValueError(f"{path}: reads event histograms, expected a network of pictures")
    return model, checkpoint


def load_ours_or_theirs(path: Path) -> tuple[DetectorNetwork, Checkpoint]:
    """The network of our checkpoint, or of a file that the authors published, by what it holds.

    Raises ValueError for a file that is neither.
    """
    try:
        return load_model(path)
    except ValueError as error:
        if not path.is_file():
            raise
        ours = str(error)
    try:
        state = read_authors_file(path).state
        config = infer_config(state)
        weights = convert_state_dict(state, config)
    except ValueError as error:
        raise ValueError(f"{ours}; nor one of the authors' ({error})") from None
    model = build_network(config)
    load_weights(model, weights, path)
    return model.eval(), Checkpoint(config, weights, {"source": path.name}, {})


@torch.no_grad()
def detect(
    model: DetectorNetwork,
    batches: ToScore,
    config: DetectConfig,
    device: torch.device,
    shard: tuple[int, int] = (0, 1),
) -> Found:
    """Boxes in every picture of a set, best first.

    `shard` (k, n) takes every n-th batch from the k-th on, so that n processes share the work.
    """
    found: Found = {}
    model.eval()
    mine = range(len(batches))[shard[0] :: shard[1]]
    for index in tqdm(mine, "detecting", unit="batch", leave=False, disable=None):
        batch = batches[index]
        x = batch.to(device).network_input()
        boxes, scores = model.decode([m.float() for m in model(x)])
        per_picture = non_max_suppression(boxes, scores, **asdict(config))
        for number, placing, rows in zip(batch.numbers, batch.placings, per_picture, strict=True):
            assert placing is not None
            table = rows.cpu().numpy().astype(np.float64)
            table[:, :4] = placing.boxes_out(table[:, :4])
            found[number] = table
    return found


def spread(batches: ToScore, wanted: int) -> Iterator[Batch]:
    """Batches evenly over a set that hold about so many pictures, all of them for 0."""
    each = max(len(batches.batches[0]), 1)
    count = min(max(round(wanted / each), 1), len(batches)) if wanted else len(batches)
    for index in np.linspace(0, len(batches) - 1, count).astype(int).tolist():
        yield batches[index]


def metrics_of(
    config: ImageEvalConfig,
    checkpoint: Checkpoint,
    images: ImageSet,
    scores: dict[str, CocoMetrics],
    energy: EnergyReport,
    measured: dict[str, Any],
) -> dict[str, Any]:
    """Everything measured and the rule behind it, as plain data for metrics.json."""
    headline = scores["coco"]
    network = {k: v for k, v in asdict(checkpoint.config).items() if k != "name"}
    protocols = {
        name: {
            "rule": RULE,
            "stats": found.stats.tolist(),
            "per_class": found.per_class,
            "images": found.n_images,
            "labels": found.n_labels,
            "detections": found.n_detections,
        }
        for name, found in scores.items()
    }
    meta = checkpoint.meta
    metrics = {
        "model": checkpoint.config.name,
        "checkpoint": str(config.checkpoint),
        "images": images.in_words(),
        "left_out_boxes": dict(images.left_out),
        "split": images.name,
        "protocol": "coco",
        "map_50_95": float(headline.stats[0]),
        "map_50": float(headline.stats[1]),
        "per_class": headline.per_class,
        "protocols": protocols,
        "left_out": {},
        "recordings_crc32": images.labels_crc32,
        "energy": energy.as_dict(),
        **measured,
        "detect": asdict(config.detect),
        "network": network,
        "histogram": {},
        "input": f"pictures, {config.side} px" + (", square" if config.square else ""),
        "trained": {key: meta.get(key) for key in ("epoch", "seed", "commit", "settings")},
        "commit": commit(),
        "environment": environment(),
    }
    return {**metrics, "config_hash": config_hash(metrics)}


def run(config: ImageEvalConfig) -> dict[str, Any]:
    """Evaluate, write metrics.json, detections.json and report/; returns the metrics."""
    device = pick_device(config.device)
    images = read_coco(config.annotations, config.images)
    model, checkpoint = load_network(config.checkpoint, images)
    make_writable(config.output / "report")
    steps = checkpoint.config.time_steps
    batches = ToScore(images, config.side, config.batch_size, config.square, steps)
    model.to(device)
    found = detect(model, batches, config.detect, device)
    scores = scores_of(images, found)
    frames = (b.to(device).network_input() for b in spread(batches, config.energy_samples))
    energy = measure_energy(model, frames)
    measured = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "latency_ms": latency_ms(model, batches[0].to(device).network_input()[:, :1]),
        "device": str(device),
    }
    metrics = metrics_of(config, checkpoint, images, scores, energy, measured)
    write_json(config.output / "detections.json", coco_rows(images, found))
    write_json(config.output / "metrics.json", metrics)
    report = config.output / "report"
    write_report(report, metrics, scores["coco"], energy, images, found, config.pictures)
    return metrics


def coco_rows(images: ImageSet, found: Found) -> list[dict[str, Any]]:
    """Detections as COCO's evaluation reads them, categories by the set's own numbers."""
    return [
        {
            "image_id": number,
            "category_id": images.category_ids[int(k)],
            "bbox": [round(float(v), 3) for v in (x1, y1, x2 - x1, y2 - y1)],
            "score": round(float(s), 5),
        }
        for number, rows in found.items()
        for x1, y1, x2, y2, s, k in rows
    ]
