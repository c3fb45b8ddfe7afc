"""Which boxes count, when, and how near in time a detection must be: the rule behind a mAP.

Sources: Perot et al., "Learning to Detect Objects with a 1 Megapixel Event Camera", 2020, whose
public toolbox scores Gen1 so; Gehrig and Scaramuzza, "Recurrent Vision Transformers for Object
Detection with Event Cameras", 2023, whose labels pass through preprocessing first.
"""

from dataclasses import dataclass, replace

import numpy as np

from gen1.labels import clip_boxes
from gen1.spec import GEN1, DatasetSpec

#: A grid of label times begins with the first label from here on; times this near are on it.
GRID_FROM_US, GRID_TOLERANCE_US = 100_000, 2_000


@dataclass(frozen=True)
class EvalProtocol:
    """A scoring rule. A box counts if it is later than `skip_us` and large enough."""

    name: str
    skip_us: int = -1
    min_diagonal_px: float = 0.0
    min_side_px: float = 0.0
    #: Detections at most this far from a label's time, before or after, are scored with it.
    tolerance_us: int = 0
    #: Whether boxes that do not count are removed from the detections as well.
    filter_detections: bool = True
    #: Labels are cropped to this frame (height, width) before their size is looked at.
    crop_labels_hw: tuple[int, int] | None = None
    #: Labels off a grid of this step are dropped, see grid_times; 0 takes every time.
    label_grid_us: int = 0
    #: Whether a detection counts at every label time within `tolerance_us`, as in Prophesee's
    #: toolbox. Otherwise it belongs to the nearest alone, whether that one counts or not.
    shares_detections: bool = False

    def in_words(self) -> str:
        """The rule as a reader of a report needs it."""
        reach = f"{self.tolerance_us / 1e3:g} ms"
        parts = [f"detections within {reach} of their nearest label time"]
        if self.shares_detections:
            parts = [f"detections at every label time within {reach}"]
        if self.label_grid_us:
            parts.append(f"label times on a grid of {self.label_grid_us / 1e3:g} ms")
        if self.crop_labels_hw:
            parts.append("labels cropped to {}x{} px".format(*self.crop_labels_hw))
        if self.skip_us >= 0:
            parts.append(f"boxes later than {self.skip_us / 1e6:g} s")
        if self.min_diagonal_px or self.min_side_px:
            size = f"diagonals >= {self.min_diagonal_px:g} px, sides >= {self.min_side_px:g} px"
            parts.append(size if self.filter_detections else f"{size} of labels")
        return ", ".join(parts)

    def scored_labels(self, labels: np.ndarray) -> np.ndarray:
        """The labels of one recording, BOX [n], that count: BOX [m], cropped if the rule crops."""
        if self.crop_labels_hw is not None:
            labels = clip_boxes(labels, *self.crop_labels_hw)
        if self.label_grid_us:
            large_us = labels["t"][self._is_large(labels)]
            labels = labels[np.isin(labels["t"], grid_times(large_us, self.label_grid_us))]
        return labels[self.keep(labels)]

    def scored_detections(self, detections: np.ndarray) -> np.ndarray:
        """The detections of one recording, BOX [n], that count."""
        return detections[self.keep(detections)] if self.filter_detections else detections

    def keep(self, boxes: np.ndarray) -> np.ndarray:
        """Which of BOX [n] are late and large enough, bool [n]."""
        return (boxes["t"] > self.skip_us) & self._is_large(boxes)

    def _is_large(self, boxes: np.ndarray) -> np.ndarray:
        diagonal_squared = boxes["w"] ** 2 + boxes["h"] ** 2
        return (
            (diagonal_squared >= self.min_diagonal_px**2)
            & (boxes["w"] >= self.min_side_px)
            & (boxes["h"] >= self.min_side_px)
        )


def grid_times(times_us: np.ndarray, step_us: int) -> np.ndarray:
    """Those of int64 [n] times that lie on RVT's grid of labels, each once, ascending.

    It begins with the first time of 100 ms or later, whatever its phase. A later time is on it if
    it lies within 2 ms of a whole number of steps after the last one that was.
    """
    found: list[int] = []
    for t_us in np.unique(times_us[times_us >= GRID_FROM_US]).tolist():
        passed_us = t_us - found[-1] if found else step_us
        steps = round(passed_us / step_us)
        if steps and abs(passed_us - steps * step_us) <= GRID_TOLERANCE_US:
            found.append(t_us)
    return np.array(found, np.int64)


def pairs_within(
    times_us: np.ndarray, others_us: np.ndarray, reach_us: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices (time, other) of all pairs at most reach_us apart, both int64 [m], ordered by time.

    others_us ascends.
    """
    first = np.searchsorted(others_us, times_us - reach_us, side="left")
    counts = np.searchsorted(others_us, times_us + reach_us, side="right") - first
    time = np.repeat(np.arange(len(times_us)), counts)
    rank = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return time, first[time] + rank


def nearest(times_us: np.ndarray, others_us: np.ndarray) -> np.ndarray:
    """Index of the other time nearest to each time, int64 [n]; of two as near, the earlier.

    others_us ascends and is not empty.
    """
    after = np.searchsorted(others_us, times_us).clip(1, len(others_us) - 1)
    before_us, after_us = others_us[after - 1], others_us[after]
    return np.maximum(after - (times_us - before_us <= after_us - times_us), 0)


def join(times_us: np.ndarray, others_us: np.ndarray, reach_us: int) -> np.ndarray:
    """Index of the other time that each time is joined to, int64 [n]; -1 for none.

    Both ascend, each without doubles. Of all pairs at most reach_us apart the nearest joins
    first (of two as near, the earlier), and no time joins twice.
    """
    time, other = pairs_within(times_us, others_us, reach_us)
    order = np.argsort(np.abs(times_us[time] - others_us[other]), kind="stable")
    joined, is_free = np.full(len(times_us), -1), np.ones(len(others_us), bool)
    for i, k in zip(time[order].tolist(), other[order].tolist(), strict=True):
        if joined[i] < 0 and is_free[k]:
            joined[i], is_free[k] = k, False
    return joined


def protocols_of(spec: DatasetSpec) -> dict[str, EvalProtocol]:
    """The rules with a data set's pixel limits; published figures name one, never compare across.

    all-boxes: every label counts. rvt: as prophesee, after what RVT's preprocessing does to
    labels; its frame ends at the last pixel.
    """
    prophesee = EvalProtocol(
        "prophesee",
        skip_us=500_000,
        min_diagonal_px=spec.min_diagonal_px,
        min_side_px=spec.min_side_px,
        tolerance_us=50_000,
    )
    rvt = replace(
        prophesee,
        name="rvt",
        crop_labels_hw=(spec.height - 1, spec.width - 1),
        label_grid_us=spec.label_grid_us,
    )
    rules = prophesee, EvalProtocol("all-boxes", tolerance_us=50_000), rvt
    return {rule.name: rule for rule in rules}


#: Gen1's.
PROTOCOLS = protocols_of(GEN1)
#: The letter of Prophesee's toolbox: another figure than prophesee where label times are less than
#: 100 ms apart. No command offers it; give it to gen1.coco.evaluate.
TOOLBOX = replace(PROTOCOLS["prophesee"], name="prophesee-toolbox", shares_detections=True)
