"""Boxes found in pictures -> COCO's twelve figures, through pycocotools: the protocol `coco`.

Boxes in px of the original picture; crowds are ignored as COCO ignores them. The figures that the
SpikeYOLO authors print are of another code, which flatters where detections are few.
"""

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from gen1.coco import average, curves_of
from images.coco import ImageSet

RULE = "pycocotools: IoU 0.50 to 0.95, 100 boxes a picture, crowds ignored"


@dataclass(frozen=True)
class CocoMetrics:
    """`stats`: float64 [12] in pycocotools' order; `per_class`: name -> (AP, AP50), -1 for none.

    `precision`: float64 [n_classes, 101] at IoU 0.5 over recall 0, 0.01, ..., 1.
    """

    stats: np.ndarray
    per_class: dict[str, tuple[float, float]]
    precision: np.ndarray
    n_images: int
    n_labels: int
    n_detections: int


def scores_of(images: ImageSet, found: Mapping[int, np.ndarray]) -> dict[str, CocoMetrics]:
    """Protocol -> figures: `coco`; beside recordings also `all-boxes`, as their events are scored.

    There a time without labels is no time to be scored at.
    """
    scores = {"coco": score(images, found)}
    if images.beside_recordings:
        labelled = tuple(picture for picture in images.pictures if len(picture.labelled))
        here = {picture.id: found[picture.id] for picture in labelled}
        scores["all-boxes"] = score(replace(images, pictures=labelled), here)
    return scores


def score(images: ImageSet, found: Mapping[int, np.ndarray]) -> CocoMetrics:
    """Figures of detections: picture id -> rows [n, 6] x1 y1 x2 y2 score class, px of the picture.

    Raises ValueError if there is no label at all to score by.
    """
    truth = ground_truth(images)
    if not truth.anns:
        raise ValueError(f"{images.name}: has no labels, expected one at least to score by")
    rows = [
        (number, k + 1, *box[:4], box[4])
        for number, boxes in found.items()
        for box, k in zip(boxes, boxes[:, 5].astype(int), strict=True)
    ]
    results = [
        {"image_id": number, "category_id": k, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": s}
        for number, k, x1, y1, x2, y2, s in rows
    ]
    with redirect_stdout(io.StringIO()):
        detections = truth.loadRes(results) if results else COCO()
        if not results:
            detections.dataset = {**truth.dataset, "annotations": []}
            detections.createIndex()
    stats, precision = curves_of(truth, detections)
    per_class = {name: average(precision[:, :, k]) for k, name in enumerate(images.categories)}
    counts = len(images.pictures), len(truth.anns), len(results)
    return CocoMetrics(stats, per_class, precision[0].T, *counts)


def ground_truth(images: ImageSet) -> COCO:
    """pycocotools' data set in memory; ids begin at 1: it never matches an annotation 0."""
    annotations: list[dict[str, Any]] = []
    for picture in images.pictures:
        boxes = picture.labelled
        sides = boxes[:, 2:] - boxes[:, :2]
        columns = (picture.classes, boxes, sides, picture.crowd, picture.areas)
        for k, box, side, crowd, area in zip(*columns, strict=True):
            row: dict[str, Any] = {
                "image_id": picture.id,
                "category_id": int(k) + 1,
                "iscrowd": int(crowd),
            }
            row |= {"bbox": [*box[:2].tolist(), *side.tolist()], "area": float(area)}
            annotations.append({**row, "id": len(annotations) + 1})
    truth = COCO()
    truth.dataset = {
        "images": [{"id": picture.id} for picture in images.pictures],
        "categories": [{"id": k, "name": n} for k, n in enumerate(images.categories, 1)],
        "annotations": annotations,
    }
    with redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth
