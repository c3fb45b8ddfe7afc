"""COCO's figures of seeded sets, as pycocotools gave them to the authors' side."""

from pathlib import Path

import numpy as np
import pytest

from images.coco import ImageSet, Picture
from images.score import score
from tests.conftest import GOLDEN, golden_json

PATH = GOLDEN / "coco" / "map.npz"
SETS = golden_json("coco/map.npz")


def image_set(rows, count, classes):
    """gt rows: image, class, x1 y1 x2 y2, crowd."""
    pictures = []
    for number in range(count):
        mine = rows[rows[:, 0] == number].astype(np.float64)
        sides = mine[:, 4:6] - mine[:, 2:4]
        boxes = mine[:, 2:6]
        columns = mine[:, 1].astype(int), boxes, boxes, mine[:, 6] > 0, sides.prod(1)
        pictures.append(Picture(number + 1, Path(f"{number}.png"), (640, 640), *columns))
    names = tuple(f"class {k}" for k in range(classes))
    return ImageSet("golden", names, tuple(range(1, classes + 1)), tuple(pictures))


@pytest.mark.parametrize("case", [name for name, meta in SETS.items() if "classes" in meta])
def test_golden_figures_of_pycocotools(case):
    figures, meta = np.load(PATH), SETS[case]
    found = figures[f"{case}|dt"].astype(np.float64)
    images = image_set(figures[f"{case}|gt"], meta["images"], meta["classes"])
    by_image = {k + 1: found[found[:, 0] == k, 1:] for k in range(meta["images"])}
    metrics = score(images, by_image)
    np.testing.assert_allclose(metrics.stats, figures[f"{case}|coco_stats"], atol=1e-9)
    per_class = np.array([*metrics.per_class.values()])
    np.testing.assert_allclose(per_class, figures[f"{case}|coco_per_class"], atol=1e-9)
