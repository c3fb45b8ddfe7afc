"""Areas, IoU and accuracies as mmsegmentation's gave them for seeded maps."""

import numpy as np
import pytest

from segmentation.score import Confusion
from tests.conftest import GOLDEN

PATH = GOLDEN / "spike2former" / "loss.npz"


def cases() -> list[str]:
    if not PATH.is_file():
        return []
    with np.load(PATH, allow_pickle=False) as figures:
        names = [name.split("|") for name in figures.files]
    return sorted(name[0] for name in names if name[1:] == ["areas_intersect_union_pred_label"])


@pytest.mark.parametrize("case", cases())
def test_golden_areas_and_scores(golden, case):
    figures = golden("spike2former/loss.npz")
    predicted, labels = figures[f"{case}|segmentation"], figures[f"{case}|gt"]
    areas = figures[f"{case}|areas_intersect_union_pred_label"]
    confusion = Confusion([f"class {k}" for k in range(areas.shape[1])])
    for one, mask in zip(predicted, labels, strict=True):
        confusion.add(one, mask)
    right = np.diag(confusion.matrix)
    of_predicted, labelled = confusion.matrix.sum(axis=0), confusion.matrix.sum(axis=1)
    union = of_predicted + labelled - right
    assert np.array_equal(np.stack([right, union, of_predicted, labelled]), areas)
    scores = confusion.scores()
    np.testing.assert_allclose(scores.iou, figures[f"{case}|iou"], atol=1e-12)
    np.testing.assert_allclose(scores.accuracy, figures[f"{case}|acc"], atol=1e-12)
    means = scores.miou["present"], scores.mean_accuracy
    np.testing.assert_allclose(means, figures[f"{case}|miou_macc"], atol=1e-12)
    np.testing.assert_allclose(scores.pixel_accuracy, figures[f"{case}|aacc"], atol=1e-12)
