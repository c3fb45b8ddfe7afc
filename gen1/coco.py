"""Boxes and detections of whole recordings -> COCO detection figures, through pycocotools."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from gen1.labels import as_boxes, refuse_unknown_classes
from gen1.protocol import EvalProtocol, nearest, pairs_within
from gen1.spec import GEN1


@dataclass(frozen=True)
class DetectionMetrics:
    """COCO figures in [0, 1] under one protocol; -1 where nothing defines a figure.

    `stats`: float64 [12] in pycocotools' order (AP, AP50, AP75, AP small, medium, large, AR1,
    AR10, AR100, AR small, medium, large). `per_class`: name -> (AP, AP50).
    `precision`: float64 [n_classes, 101] at IoU 0.5 over recall 0, 0.01, ..., 1.
    Counts are of what the protocol left to score; an image is one label time.
    """

    stats: np.ndarray
    per_class: dict[str, tuple[float, float]]
    precision: np.ndarray
    protocol: EvalProtocol
    n_recordings: int
    n_images: int
    n_labels: int
    n_detections: int

    @property
    def map_50_95(self) -> float:
        """Mean AP over IoU 0.50:0.05:0.95 and the classes that have labels."""
        return float(self.stats[0])

    @property
    def map_50(self) -> float:
        """Mean AP at IoU 0.50."""
        return float(self.stats[1])

    def summary(self) -> str:
        """One line: the figures and the rule they were made by."""
        figures = f"mAP {self.map_50_95:.3f}, mAP@50 {self.map_50:.3f}"
        counts = f"{self.n_recordings} recordings, {self.n_images} frames, {self.n_labels} labels"
        return f"{figures} (protocol {self.protocol.name}, {counts})"


class NothingToScore(ValueError):
    """None of the labels that were chosen counts under the protocol."""


def evaluate(
    labels: Sequence[np.ndarray],
    detections: Sequence[np.ndarray],
    protocol: EvalProtocol,
    class_names: Sequence[str] = GEN1.classes,
    counts: Sequence[np.ndarray] | None = None,
) -> DetectionMetrics:
    """Score detections against labels, two lists of BOX [n], one array per recording.

    counts: bool [n] per recording, which labels to score; the others are regions in which nothing
    is counted, neither as missed nor as false (COCO's iscrowd). None: all.
    Raises ValueError if the lists differ in length, a class_id has no name, a confidence is
    not finite or no label is left to score.
    """
    if len(labels) != len(detections):
        given = f"{len(labels)} label arrays and {len(detections)} detection arrays"
        raise ValueError(f"{given}, expected one of each per recording")
    label_parts, detection_parts, n_images = [], [], 0
    for recording, (label, detection) in enumerate(zip(labels, detections, strict=True)):
        crowd = 0 if counts is None else ~counts[recording]
        label = _checked(label, f"labels of recording {recording}", class_names, crowd)
        detection = _checked(detection, f"detections of recording {recording}", class_names)
        if not np.isfinite(detection["class_confidence"]).all():
            found = f"detections of recording {recording}: a class_confidence is not finite"
            raise ValueError(f"{found}, expected 0 to 1")
        labelled_us = np.unique(label["t"])
        label, detection = protocol.scored_labels(label), protocol.scored_detections(detection)
        times_us, image = np.unique(label["t"], return_inverse=True)
        near, near_image = _near(detection, times_us, labelled_us, protocol)
        label_parts.append((label, image + n_images))
        detection_parts.append((near, near_image + n_images))
        n_images += len(times_us)
    if n_images == 0:
        given = f"{sum(map(len, labels))} labels in {len(labels)} recordings"
        raise ValueError(f"protocol {protocol.name} keeps none of {given}, expected at least one")
    n_labels = sum(int(np.sum(label["track_id"] == 0)) for label, _ in label_parts)
    if not n_labels:
        raise NothingToScore("no label that counts is among the chosen, expected at least one")
    truth = _coco(label_parts, n_images, class_names)
    found = _coco(detection_parts, n_images, class_names)
    stats, precision = curves_of(truth, found)
    return DetectionMetrics(
        stats=stats,
        per_class={name: average(precision[:, :, k]) for k, name in enumerate(class_names)},
        precision=precision[0].T,
        protocol=protocol,
        n_recordings=len(labels),
        n_images=n_images,
        n_labels=n_labels,
        n_detections=len(found.anns),
    )


def _checked(
    boxes: np.ndarray, source: str, class_names: Sequence[str], crowd: np.ndarray | int = 0
) -> np.ndarray:
    """BOX [n], sorted by time; a time's boxes keep their order. Their track says `crowd`."""
    boxes = as_boxes(boxes, source)
    boxes["track_id"] = crowd  # which every rule keeps, and none looks at
    refuse_unknown_classes(boxes, source, class_names)
    return boxes[np.argsort(boxes["t"], kind="stable")]


def _near(
    detections: np.ndarray, times_us: np.ndarray, labelled_us: np.ndarray, protocol: EvalProtocol
) -> tuple[np.ndarray, np.ndarray]:
    """Detections that belong to the times that count, and the time's index.

    labelled_us: all label times, also those that do not count. The tolerance includes both ends.
    """
    if protocol.shares_detections:
        image, near = pairs_within(times_us, detections["t"], protocol.tolerance_us)
        return detections[near], image
    if not len(times_us):
        return detections[:0], np.zeros(0, int)
    own_us = labelled_us[nearest(detections["t"], labelled_us)]
    is_near = np.abs(own_us - detections["t"]) <= protocol.tolerance_us
    is_near &= np.isin(own_us, times_us)
    return detections[is_near], np.searchsorted(times_us, own_us[is_near])


def _coco(
    parts: list[tuple[np.ndarray, np.ndarray]], n_images: int, class_names: Sequence[str]
) -> COCO:
    """pycocotools' data set of (BOX [n], image [n]) parts, in memory.

    Annotation and category ids begin at 1: pycocotools never matches an annotation 0.
    """
    boxes = np.concatenate([part for part, _ in parts])
    image = np.concatenate([index for _, index in parts])
    boxes_xywh = np.stack([boxes[name].astype(np.float64) for name in "xywh"], axis=1)
    rows = zip(
        image.tolist(),
        (boxes["class_id"].astype(int) + 1).tolist(),
        boxes_xywh.tolist(),
        (boxes["w"] * boxes["h"]).tolist(),
        boxes["class_confidence"].tolist(),
        boxes["track_id"].tolist(),
        strict=True,
    )
    keys = ("image_id", "category_id", "bbox", "area", "score", "iscrowd", "id")
    coco = COCO()
    coco.dataset = {
        "images": [{"id": index} for index in range(n_images)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(class_names, start=1)],
        "annotations": [
            dict(zip(keys, (*row, number), strict=True)) for number, row in enumerate(rows, 1)
        ],
    }
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def curves_of(truth: COCO, found: COCO) -> tuple[np.ndarray, np.ndarray]:
    """The 12 figures, and the precision [IoU 10, recall 101, class] of all sizes, 100 boxes."""
    evaluation = COCOeval(truth, found, "bbox")
    with redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats), evaluation.eval["precision"][:, :, :, 0, -1]


def average(precision: np.ndarray) -> tuple[float, float]:
    """(AP, AP50) from one class's precision [IoU 10, recall 101]; -1 where it has no labels."""
    if np.any(precision < 0):
        return -1.0, -1.0
    return float(precision.mean()), float(precision[0].mean())
