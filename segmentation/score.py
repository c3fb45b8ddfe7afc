"""Predictions and masks -> a confusion matrix of the whole set -> IoU, mIoU, accuracy.

Two rules for a class that is nowhere, neither in masks nor in predictions: `present` leaves it out
of the mean (mmsegmentation's), `all` counts it as 0 (that of ESS for DSEC-Semantic and DDD17).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from segmentation.spec import IGNORED

#: What a class without a pixel is to the mean IoU.
AbsentRule = Literal["present", "all"]
ABSENT_RULES = get_args(AbsentRule)


@dataclass(frozen=True)
class Scores:
    """Figures of a set of masks, as fractions; nan for a class that has none.

    iou, accuracy: float64 [classes]; miou: mean IoU by rule; pixel_accuracy: share of labelled
    pixels that are right; mean_accuracy: mean over the classes that are labelled anywhere.
    pixels: labelled pixels of each class, int64 [classes].
    """

    classes: tuple[str, ...]
    iou: np.ndarray
    accuracy: np.ndarray
    miou: dict[str, float]
    pixel_accuracy: float
    mean_accuracy: float
    pixels: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a JSON file; None for what has no value."""
        return {
            **{f"miou_{rule}": _plain(value) for rule, value in self.miou.items()},
            "pixel_accuracy": _plain(self.pixel_accuracy),
            "mean_accuracy": _plain(self.mean_accuracy),
            "iou": {n: _plain(v) for n, v in zip(self.classes, self.iou, strict=True)},
            "accuracy": {n: _plain(v) for n, v in zip(self.classes, self.accuracy, strict=True)},
            "pixels": dict(zip(self.classes, self.pixels.tolist(), strict=True)),
        }

    def __str__(self) -> str:
        """A line per class and one of the means, in percent."""
        width = max(map(len, self.classes))
        rows = zip(self.classes, self.iou, self.accuracy, self.pixels.tolist(), strict=True)
        lines = [
            f"{name:{width}}  IoU {_percent(iou)}  accuracy {_percent(accuracy)}  {n:,} px"
            for name, iou, accuracy, n in rows
        ]
        means = ", ".join(f"mIoU ({rule}) {_percent(v).strip()}" for rule, v in self.miou.items())
        return "\n".join([*lines, f"{means}, pixels {_percent(self.pixel_accuracy).strip()}"])


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _percent(value: float) -> str:
    return "    -" if np.isnan(value) else f"{100 * value:5.2f}"


class Confusion:
    """How often each class of masks was predicted as which: `matrix` int64 [label, predicted].

    Pixels labelled IGNORED are left out.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.matrix = np.zeros((len(self.classes),) * 2, np.int64)

    def add(self, predicted: np.ndarray | torch.Tensor, labels: np.ndarray | torch.Tensor) -> None:
        """Count pixels; both whole numbers of one shape.

        Raises ValueError for other shapes, and for a label or prediction that is no class.
        """
        found, wanted = (
            values if isinstance(values, torch.Tensor) else torch.tensor(values)
            for values in (predicted, labels)
        )
        if found.shape != wanted.shape:
            shapes = f"predictions {[*found.shape]} for labels {[*wanted.shape]}"
            raise ValueError(f"{shapes}, expected one shape")
        n = len(self.classes)
        counts = wanted != IGNORED
        found, wanted = found[counts].long(), wanted[counts].to(found.device).long()
        for name, values in (("label", wanted), ("prediction", found)):
            wrong = values[(values < 0) | (values >= n)]
            if len(wrong):
                raise ValueError(f"{name} {int(wrong[0])}, expected a class from 0 to {n - 1}")
        cells = torch.bincount(wanted * n + found, minlength=n * n)
        self.matrix += cells.reshape(n, n).cpu().numpy()

    def merge(self, other: "Confusion") -> None:
        """Add what another saw, as of another process."""
        if other.classes != self.classes:
            raise ValueError("confusions of other classes were given, expected the same ones")
        self.matrix += other.matrix

    def scores(self) -> Scores:
        """The figures of all pixels so far; raises ValueError if there are none."""
        labelled, predicted = self.matrix.sum(axis=1), self.matrix.sum(axis=0)
        right = np.diag(self.matrix)
        if not labelled.sum():
            raise ValueError("no labelled pixel was counted, expected masks with classes")
        union = labelled + predicted - right
        with np.errstate(invalid="ignore"):
            iou, accuracy = right / union, right / labelled
        miou = {"present": float(np.nanmean(iou)), "all": float(np.nan_to_num(iou).mean())}
        return Scores(
            self.classes,
            iou,
            accuracy,
            miou,
            float(right.sum() / labelled.sum()),
            float(np.nanmean(accuracy)),
            labelled,
        )
