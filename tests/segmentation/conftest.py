"""A small set with masks: tiny recordings whose masks are drawn by a rule."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gen1.dat import write_dat
from gen1.labels import write_boxes
from gen1.spec import EVENT
from preprocessing.__main__ import main as preprocess
from segmentation.spec import MaskSpec, write_mask_spec
from tests.conftest import flickering_boxes

HEIGHT, WIDTH = 240, 304
#: Of flickering_boxes' labels, 4 Hz.
TIMES_US = [499_999, 749_999, 999_999, 1_249_999]
SPEC = MaskSpec("streets", ("background", "car", "pedestrian"))


def drawn_mask(boxes: np.ndarray, t_us: int) -> np.ndarray:
    """Background, 255 in the lowest rows, and the box of that time filled with its class."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for box in boxes[boxes["t"] == t_us]:
        x, y, w, h = (int(box[side]) for side in "xywh")
        mask[y : y + h, x : x + w] = box["class_id"] + 1
    mask[-20:] = 255
    return mask


def write_mask(folder: Path, t_us: int, mask: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    Image.fromarray(mask).save(folder / f"{t_us}.png")


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """recordings/ with boxes, masks and masks.yaml, and cache/ of it at half resolution, T=2."""
    root = tmp_path_factory.mktemp("masks")
    rng = np.random.default_rng(3)
    for split, count in (("train", 2), ("val", 1)):
        folder = root / "recordings" / split
        folder.mkdir(parents=True)
        for number in range(count):
            events, boxes = flickering_boxes(rng, label_times=4)
            assert sorted(boxes["t"].tolist()) == TIMES_US
            write_dat(folder / f"r{number}_td.dat", events, HEIGHT, WIDTH)
            write_boxes(folder / f"r{number}_bbox.npy", boxes)
            for t_us in TIMES_US:
                write_mask(folder / f"r{number}_masks", t_us, drawn_mask(boxes, t_us))
    write_mask_spec(root / "recordings" / "masks.yaml", SPEC)
    command = ["--input", str(root / "recordings"), "--output", str(root / "cache")]
    command += ["--time-steps", "2", "--downsample", "2", "--keep", "masks"]
    assert preprocess(command) == 0
    return root


@pytest.fixture
def street(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """street(change, *options) -> recordings and their cache; one recording, no boxes.

    Its events fill the left half. change(masks folder) comes before preprocessing.
    """

    def build(
        change: Callable[[Path], object] = lambda _: None, *options: str
    ) -> tuple[Path, Path]:
        folder = tmp_path / "one" / "train"
        folder.mkdir(parents=True)
        rng = np.random.default_rng(1)
        events = np.zeros(20_000, EVENT)
        events["t"] = np.sort(rng.integers(0, 1_300_000, len(events)))
        events["x"] = rng.integers(0, WIDTH // 2, len(events))
        events["y"] = rng.integers(0, HEIGHT, len(events))
        write_dat(folder / "r0_td.dat", events, HEIGHT, WIDTH)
        for t_us in TIMES_US:
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[:, : WIDTH // 2] = 1
            write_mask(folder / "r0_masks", t_us, mask)
        write_mask_spec(tmp_path / "one" / "masks.yaml", SPEC)
        change(folder / "r0_masks")
        command = ["--input", str(tmp_path / "one"), "--output", str(tmp_path / "cache")]
        assert preprocess([*command, "--time-steps", "2", *(options or ("--keep", "masks"))]) == 0
        return tmp_path / "one", tmp_path / "cache"

    return build
