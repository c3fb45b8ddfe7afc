"""Checkpoint + cache -> mAP under a named protocol, energy per inference, report with pictures."""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import BatchSampler
from tqdm import tqdm

from evaluation.detect import Detections, detect, open_split, spread_out
from evaluation.provenance import commit, config_hash, environment
from evaluation.report import write_report
from evaluation.stationary import stationary_scores
from evaluation.streams import detect_streams
from gen1.atomic import make_way, make_writable, write_json
from gen1.coco import DetectionMetrics, evaluate
from gen1.labels import checksum, write_boxes
from gen1.protocol import PROTOCOLS, EvalProtocol, join, protocols_of
from gen1.spec import DatasetSpec, ProtocolName
from models.checkpoint import Checkpoint, checkpoint_file, load_model
from models.choices import refuse_unknown_choices
from models.decode import DetectConfig
from models.deploy import deploy
from models.detector import DetectorNetwork, refuse_other_task
from models.device import pick_device
from models.energy import EnergyReport, measure_energy
from models.memory.carried import UNUSED_MEMORY, has_memory
from preprocessing.cache import read_manifest
from preprocessing.dataset import HistogramDataset, Loader, collate
from preprocessing.inputs import input_of


@dataclass(frozen=True)
class EvalConfig:
    """Evaluate a checkpoint on one split of a cache.

    Args:
        checkpoint: Checkpoint file, trained or deployed, or a run directory (its best.pt is used).
        cache: Directory that `python -m preprocessing` wrote.
        split: Which recordings.
        protocol: Rule of the headline mAP, "" for that of the data set; the report has all that the
            cache can serve.
        output: Directory for metrics.json, detections/ and report/.
        batch_size: Samples per forward.
        workers: Processes that read the cache; 0 reads in this one.
        device: "auto", "cpu" or "cuda".
        energy_samples: Samples over which spikes are counted; 0 counts all of the split.
        sparse_input: Price the first layer as if it skipped pixels without events, in the network
            and in its ANN-equivalent.
        weights: "float", or "int8": the deployed network with rounded weights, at int8's prices.
        carry_state: Detect in whole recordings, the state carried from window to window, as
            detect_gen1.py --carry-state; energy is that of recordings spread over the split.
        pictures: Label times drawn in the report of each kind: evenly spread, best, worst.
        detect: Thresholds of the detections.
    """

    checkpoint: Path
    cache: Path
    output: Path
    split: Literal["test", "val", "train"] = "test"
    protocol: ProtocolName | Literal[""] = ""
    batch_size: int = 16
    workers: int = 0
    device: str = "auto"
    energy_samples: int = 128
    sparse_input: bool = False
    weights: Literal["float", "int8"] = "float"
    carry_state: bool = False
    pictures: int = 6
    detect: DetectConfig = field(default_factory=DetectConfig)

    def __post_init__(self) -> None:
        for name in ("checkpoint", "cache", "output"):  # text will do
            object.__setattr__(self, name, Path(getattr(self, name)))
        refuse_unknown_choices(self)


def score(
    dataset: HistogramDataset,
    detections: Detections,
    protocol: str,
    counts: Mapping[str, np.ndarray] | None = None,
) -> DetectionMetrics:
    """mAP of the detections of every recording of a split under a named protocol.

    counts: recording -> which of its labels, bool [n]; see gen1.coco.evaluate.
    """
    rule, names = protocols_of(dataset.spec)[protocol], dataset.recordings
    labels = [dataset.labels(name) for name in names]
    found = [detections[name] for name in names]
    if dataset.settings.every_us:
        found = [_at_label_times(dataset, name, detections[name], rule) for name in names]
    chosen = None if counts is None else [counts[name] for name in names]
    return evaluate(labels, found, rule, dataset.spec.classes, chosen)


def left_out(dataset: HistogramDataset) -> dict[str, str]:
    """Protocols that a split cannot be scored by -> why; reads labels and times alone."""
    rules = protocols_of(dataset.spec)
    reasons = {name: _why_not(dataset, rule) for name, rule in rules.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def refuse_unready(train_set: HistogramDataset, val_set: HistogramDataset, protocol: str) -> None:
    """Raise ValueError if no label of a split has a sample, or val cannot be scored."""
    for split in (train_set, val_set):
        if split.n_unsampled == split.n_labels:
            found = f"none of {split.n_labels} labels has a sample ({split.settings.sampling})"
            raise ValueError(f"{split.name}: {found}, expected one at least")
    refuse_unserved(val_set, protocol)


def refuse_unserved(dataset: HistogramDataset, protocol: str) -> dict[str, str]:
    """Raise ValueError if a split cannot be scored by a protocol; returns the others left out."""
    reasons = left_out(dataset)
    if protocol in reasons:
        served = " or ".join(name for name in PROTOCOLS if name not in reasons)
        advice = f"protocol {served}" if served else "other samples or labels"
        found = f"protocol {protocol} cannot be scored, {reasons[protocol]}"
        raise ValueError(f"{dataset.name}: {found}: expected {advice}")
    return reasons


def _why_not(dataset: HistogramDataset, rule: EvalProtocol) -> str:
    """Why a split cannot be scored by a rule; empty if it can."""
    settings = dataset.settings
    sensor_hw = settings.height, settings.width
    if rule.crop_labels_hw and rule.crop_labels_hw != (settings.height - 1, settings.width - 1):
        return "it crops labels to {}x{} px, the sensor has {}x{}".format(
            *rule.crop_labels_hw, *sensor_hw
        )
    n_times = n_unsampled = 0
    for name in dataset.recordings:
        counted_us, joined = _joined(dataset, name, rule)
        times_us = dataset.times_us(name)
        n_times += len(counted_us)
        missed_us = counted_us[joined < 0]
        if settings.every_us and len(times_us):  # beyond the samples' ends a label is a miss
            is_inside = missed_us >= times_us[0] - rule.tolerance_us
            missed_us = missed_us[is_inside & (missed_us <= times_us[-1] + rule.tolerance_us)]
        n_unsampled += len(missed_us)
    if not n_times:
        return f"none of {dataset.n_labels} labels counts"
    if n_unsampled:
        found = f"{n_unsampled} of {n_times} label times that count have no sample"
        return f"{found} ({settings.sampling})"
    return ""


def _joined(
    dataset: HistogramDataset, name: str, rule: EvalProtocol
) -> tuple[np.ndarray, np.ndarray]:
    """Label times of a recording that count, and the index of the sample of each, -1 for none."""
    counted_us = np.unique(rule.scored_labels(dataset.labels(name))["t"])
    reach_us = rule.tolerance_us if dataset.settings.every_us else 0
    return counted_us, join(counted_us, dataset.times_us(name), reach_us)


def _at_label_times(
    dataset: HistogramDataset, name: str, detections: np.ndarray, rule: EvalProtocol
) -> np.ndarray:
    """Detections of the samples that are joined to a label time that counts, moved to that time.

    Otherwise several samples near a label would find the same object several times.
    """
    counted_us, joined = _joined(dataset, name, rule)
    counted_us, joined = counted_us[joined >= 0], joined[joined >= 0]
    taken_us = dataset.times_us(name)[joined]  # distinct and, as the label times, ascending
    found = detections[np.isin(detections["t"], taken_us)]
    found["t"] = counted_us[np.searchsorted(taken_us, found["t"])]
    return found


def energy_frames(
    dataset: HistogramDataset, config: EvalConfig, device: torch.device
) -> Iterator[torch.Tensor | Iterator[torch.Tensor]]:
    """Frames [T, B, C, H, W] spread evenly over the split, energy_samples in all.

    With carried state: streams, recordings spread over the split, their windows one by one.
    """
    wanted = min(config.energy_samples or len(dataset), len(dataset))

    def read(rows: list[list[int]]) -> Iterator[torch.Tensor]:
        for batch in Loader(dataset, rows, config.workers):
            shown.update(batch.frames.shape[1])
            yield batch.to(device).network_input()

    with tqdm(desc="counting spikes", unit="sample", leave=False, disable=None) as shown:
        if not config.carry_state:
            chosen = spread_out(len(dataset), wanted)
            yield from read(list(BatchSampler(chosen, config.batch_size, drop_last=False)))
            return
        windows = np.array([len(dataset.times_us(name)) for name in dataset.recordings])
        ends, filled = windows.cumsum(), np.flatnonzero(windows)
        count = -(-wanted * len(filled) // len(dataset))
        for k in filled[np.linspace(0, len(filled) - 1, count).astype(int)]:
            first, length = int(ends[k] - windows[k]), min(int(windows[k]), wanted)
            yield read([[row] for row in range(first, first + length)])
            wanted -= length


def found_by(
    model: DetectorNetwork, dataset: HistogramDataset, config: EvalConfig, device: torch.device
) -> Detections:
    """The detections in all of the split, as `config` asks for them."""
    if config.carry_state:
        return detect_streams(model, dataset, config.detect, config.workers, device)
    return detect(model, dataset, config.detect, config.batch_size, config.workers, device)


@torch.no_grad()
def latency_ms(model: DetectorNetwork, x: torch.Tensor, passes: int = 20) -> float:
    """Median time of one deployed forward of one sample x [T, 1, C, H, W], in ms."""
    deployed = deploy(model)
    times = []
    for _ in range(passes):
        started = time.perf_counter()
        deployed(x)
        if x.is_cuda:
            torch.cuda.synchronize(x.device)
        times.append(1e3 * (time.perf_counter() - started))
    return float(np.median(times))


def metrics_of(
    config: EvalConfig,
    checkpoint: Checkpoint,
    scores: dict[str, DetectionMetrics],
    energy: EnergyReport,
    measured: dict[str, Any],
    spec: DatasetSpec,
) -> dict[str, Any]:
    """Everything measured and the rule behind every number, as plain data for metrics.json."""
    headline = scores[config.protocol]
    meta = checkpoint.meta
    metrics = {
        "model": checkpoint.config.name,
        "checkpoint": str(config.checkpoint),
        "kind": checkpoint.kind,
        "cache": str(config.cache),
        "split": config.split,
        "protocol": config.protocol,
        "map_50_95": headline.map_50_95,
        "map_50": headline.map_50,
        "per_class": {
            name: {"map_50_95": ap, "map_50": ap50}
            for name, (ap, ap50) in headline.per_class.items()
        },
        "protocols": {
            name: {
                "rule": asdict(metrics.protocol),
                "stats": metrics.stats.tolist(),
                "per_class": metrics.per_class,
                "recordings": metrics.n_recordings,
                "images": metrics.n_images,
                "labels": metrics.n_labels,
                "detections": metrics.n_detections,
            }
            for name, metrics in scores.items()
        },
        "energy": energy.as_dict(),
        **measured,
        "detect": asdict(config.detect),
        "network": {k: v for k, v in asdict(checkpoint.config).items() if k != "name"},
        "trained": {key: meta.get(key) for key in ("epoch", "seed", "commit", "settings")},
        "histogram": meta["histogram"],
        "input": meta["input"],
        "dataset": spec.as_dict(),
        "commit": commit(),
        "environment": environment(),
    }
    return {**metrics, "config_hash": config_hash(metrics)}


def run(config: EvalConfig) -> dict[str, Any]:
    """Evaluate, write metrics.json, detections/ and report/ under config.output; return metrics."""
    device = pick_device(config.device)
    model, checkpoint = load_model(checkpoint_file(config.checkpoint))
    refuse_other_task(checkpoint.config, "detection", config.checkpoint)
    model.to(device)
    settings, seen_as, spec = input_of(checkpoint.meta, config.checkpoint)
    if config.carry_state:  # windows one after the other, whichever it learnt from
        cached = read_manifest(config.cache).settings
        settings = replace(settings, every_us=cached.every_us, keep=cached.keep)
    elif has_memory(checkpoint.config):
        print(f"note: {config.checkpoint}: {UNUSED_MEMORY}", file=sys.stderr)
    dataset = open_split(config.cache, config.split, checkpoint.config, settings, seen_as, spec)
    config = replace(config, protocol=config.protocol or dataset.spec.protocol)
    left_out = refuse_unserved(dataset, config.protocol)
    for folder in ("detections", "report"):
        make_writable(config.output / folder)
    make_way(config.output / "metrics.json")

    if config.weights == "int8":
        from models.export.quantise import rounded_network

        model = rounded_network(deploy(model.cpu()), dataset.geometry.network_hw).to(device)
        checkpoint = checkpoint._replace(kind="int8")
    detections = found_by(model, dataset, config, device)
    scores = {p: score(dataset, detections, p) for p in PROTOCOLS if p not in left_out}
    frames = energy_frames(dataset, config, device)
    precision = "int8" if config.weights == "int8" else "fp32"
    model.carry_state = config.carry_state
    energy = measure_energy(model, frames, precision, config.sparse_input)
    model.carry_state = False
    measured = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "latency_ms": latency_ms(model, collate([dataset[0]]).to(device).network_input()),
        "device": str(device),
        "recordings_crc32": checksum({name: dataset.labels(name) for name in dataset.recordings}),
        "left_out": left_out,
    }
    if config.carry_state:
        measured["carry_state"] = True
    chosen_score = partial(score, dataset, detections)
    if stationary := stationary_scores(dataset, chosen_score, scores):
        measured["stationary"] = stationary
    metrics = metrics_of(config, checkpoint, scores, energy, measured, dataset.spec)

    for name, boxes in detections.items():
        write_boxes(config.output / "detections" / f"{name}_bbox.npy", boxes)
    write_json(config.output / "metrics.json", metrics)
    headline = scores[config.protocol]
    report = config.output / "report"
    write_report(report, metrics, headline, energy, dataset, detections, config.pictures)
    return metrics
