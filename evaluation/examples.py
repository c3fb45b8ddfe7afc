"""Which label times to show: a fair selection, the best and the worst."""

import numpy as np
from pycocotools import mask

from gen1.protocol import EvalProtocol
from preprocessing.dataset import HistogramDataset

SHOWN_SCORE = 0.3
MATCHING_IOU = 0.5


def at(boxes: np.ndarray, t_us: int) -> np.ndarray:
    return boxes[boxes["t"] == t_us]


def shown(detections: np.ndarray, t_us: int) -> np.ndarray:
    """The detections at a time that are confident enough to draw, best first."""
    found = at(detections, t_us)
    found = found[found["class_confidence"] >= SHOWN_SCORE]
    return found[np.argsort(-found["class_confidence"], kind="stable")]


def f1_score(labels: np.ndarray, found: np.ndarray) -> float:
    """F1 of BOX [n] against BOX [m] at IoU 0.5, greedy, best first; nan if both are empty."""
    if not len(labels) and not len(found):
        return float("nan")
    corners = [
        np.stack([b[name] for name in "xywh"], axis=1).astype(float) for b in (found, labels)
    ]
    overlap = np.zeros((len(found), len(labels)))
    if overlap.size:
        overlap = mask.iou(*corners, np.zeros(len(labels), bool))
    overlap[found["class_id"][:, None] != labels["class_id"]] = 0
    hits = 0
    for row in overlap:
        if row.size and row.max() >= MATCHING_IOU:
            overlap[:, row.argmax()] = 0
            hits += 1
    return 2 * hits / (len(labels) + len(found))


def pick_examples(
    dataset: HistogramDataset,
    detections: dict[str, np.ndarray],
    protocol: EvalProtocol,
    count: int,
) -> dict[str, list[int]]:
    """Title -> indices of `count` samples: spread evenly, highest F1, lowest F1.

    Only boxes that count under the protocol enter F1; of equals, those with more labels show.
    """
    ranked = []
    for index, (name, t_us) in enumerate(dataset.label_times):
        labels = at(protocol.scored_labels(dataset.labels(name)), dataset.label_us(index))
        found = protocol.scored_detections(shown(detections[name], t_us))
        f1 = f1_score(labels, found)
        if f1 == f1:
            ranked.append((f1, len(labels), index))
    best = sorted(ranked, key=lambda r: (-r[0], -r[1], r[2]))[:count]
    worst = sorted(ranked, key=lambda r: (r[0], -r[1], r[2]))[:count]
    evenly = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    return {
        "Detections": evenly.tolist(),
        "Best detections": [index for *_, index in best],
        "Worst detections": [index for *_, index in worst],
    }
