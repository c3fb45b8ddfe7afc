"""Detections of a split -> figures, under those protocols alone that its samples can serve."""

import numpy as np

from gen1.coco import DetectionMetrics, evaluate
from gen1.protocol import PROTOCOLS, EvalProtocol, join
from preprocessing.dataset import HistogramDataset

Detections = dict[str, np.ndarray]


def score(dataset: HistogramDataset, detections: Detections, protocol: str) -> DetectionMetrics:
    """mAP of the detections of every recording of a split under a named protocol."""
    rule, names = PROTOCOLS[protocol], dataset.recordings
    labels = [dataset.labels(name) for name in names]
    found = [detections[name] for name in names]
    if dataset.settings.every_us:
        found = [_at_label_times(dataset, name, detections[name], rule) for name in names]
    return evaluate(labels, found, rule)


def left_out(dataset: HistogramDataset) -> dict[str, str]:
    """Protocols that a split cannot be scored by -> why; reads labels and times alone."""
    reasons = {name: _why_not(dataset, rule) for name, rule in PROTOCOLS.items()}
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
