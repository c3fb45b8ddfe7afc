"""Small recordings for the tests of this room."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gen1.dat import write_dat
from gen1.labels import write_boxes
from gen1.spec import BOX, EVENT, GEN1

HEIGHT, WIDTH = GEN1.sensor_hw


def make_events(
    n: int, duration_us: int, seed: int, height: int = HEIGHT, width: int = WIDTH
) -> np.ndarray:
    """EVENT [n], sorted times in [0, duration_us), pixels crowded so that cells share events."""
    rng = np.random.default_rng(seed)
    events = np.zeros(n, EVENT)
    events["t"] = np.sort(rng.integers(0, duration_us, n))
    events["x"] = np.minimum(rng.exponential(width / 6, n), width - 1)
    events["y"] = rng.integers(0, height, n)
    events["p"] = rng.integers(0, 2, n)
    return events


def make_boxes(rows: list[tuple[int, float, float, float, float, int]]) -> np.ndarray:
    """BOX array from (t, x, y, w, h, class)."""
    boxes = np.zeros(len(rows), BOX)
    for i, (t, x, y, w, h, class_id) in enumerate(rows):
        boxes[i] = (t, x, y, w, h, class_id, 1.0, i)
    return boxes


LABELS = make_boxes(
    [
        (99_999, 10, 20, 40, 30, 0),  # earlier than a window of 250 ms
        (349_999, 12, 20, 40, 30, 0),
        (349_999, -20, 100, 50, 60, 1),  # partly outside
        (599_999, 400, 20, 40, 30, 0),  # wholly outside
        (599_999, 50, 60, 0, 10, 1),  # no area
        (849_999, 280, 200, 60, 80, 1),
    ]
)


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """tree(train=2, val=1) -> data set directory with that many recordings per split."""

    def build(root: str = "data", n_events: int = 20_000, **counts: int) -> Path:
        for k, (split, count) in enumerate(counts.items()):
            folder = tmp_path / root / split
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                events = make_events(n_events, 1_000_000, seed=100 * k + i)
                write_dat(folder / f"r{i}_td.dat", events, HEIGHT, WIDTH)
                write_boxes(folder / f"r{i}_bbox.npy", LABELS)
        return tmp_path / root

    return build
