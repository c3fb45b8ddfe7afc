"""Fixtures every room's tests share."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook

import tests.checker  # noqa: F401  (the hook below finds it by name)

#: Whose shapes are checked at every call while tests run.
CHECKED = ("assign", "blocks", "boxes", "decode", "detector", "head", "loss", "neuron", "spikeyolo")
SPIKE2FORMER = [f"spike2former.{name}" for name in ("decoder", "fpn", "head", "loss", "sampling")]
install_import_hook(
    [f"models.{name}" for name in (*CHECKED, "ems.head", "ems.loss", *SPIKE2FORMER)],
    "tests.checker.checked",
)

from gen1.dat import write_dat
from gen1.labels import read_boxes, write_boxes
from gen1.spec import BOX, EVENT, GEN1
from preprocessing.__main__ import main as preprocess

HEIGHT, WIDTH = GEN1.sensor_hw

torch.set_num_threads(1)  # golden losses need one order of summation, small tensors no more
#: Figures of the authors' own code; of the same kinds, another folder may hold others.
GOLDEN = Path(os.environ.get("GOLDEN", Path(__file__).parent / "golden")).absolute()


def golden_json(name: str) -> Any:
    """What a json, or the `meta` of an npz, below GOLDEN says; {} where there is no such file."""
    path = GOLDEN / name
    if not path.is_file():
        return {}
    if path.suffix == ".json":
        return json.loads(path.read_text())
    with np.load(path, allow_pickle=False) as figures:
        return json.loads(str(figures["meta"]))


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def golden() -> Iterator[Callable[[str], Any]]:
    """golden("gen1/fx_dat.npz") -> the open npz file of figures computed elsewhere."""
    with ExitStack() as files:
        yield cache(lambda name: files.enter_context(np.load(GOLDEN / name, allow_pickle=False)))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """shared_data("x.dat") -> path of a real recording; skips the test where it is absent."""

    def locate(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"real recording {name} is not on this machine")
        return path

    return locate


@pytest.fixture(scope="session")
def street_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cache of tiny recordings (T=2, half resolution) with all three splits."""
    recordings = tmp_path_factory.mktemp("street") / "recordings"
    rng = np.random.default_rng(7)
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        (recordings / split).mkdir(parents=True)
        for number in range(count):
            events, boxes = flickering_boxes(rng, label_times=4)
            if split == "test":  # strides begin with the first event: let them meet the labels
                events["t"][0], events["t"][-1] = 250_000, boxes["t"][-1]
            write_dat(recordings / split / f"r{number}_td.dat", events, HEIGHT, WIDTH)
            write_boxes(recordings / split / f"r{number}_bbox.npy", boxes)
    cache = recordings.parent / "cache"
    options = ["--time-steps", "2", "--downsample", "2"]
    assert preprocess(["--input", str(recordings), "--output", str(cache), *options]) == 0
    return cache


@pytest.fixture(scope="session")
def small_cache(street_cache: Path) -> Path:
    """The same recordings at a quarter of the resolution: 64x96 px for the network."""
    recordings, cache = street_cache.parent / "recordings", street_cache.parent / "small"
    options = ["--time-steps", "2", "--downsample", "4"]
    assert preprocess(["--input", str(recordings), "--output", str(cache), *options]) == 0
    return cache


@pytest.fixture
def relabelled(street_cache: Path, tmp_path: Path) -> Callable[..., Path]:
    """relabelled({"val": change}, *options) -> cache, as small_cache, of other labels.

    change(boxes) changes those of every recording of the split in place.
    """

    def build(changes: dict[str, Callable[[np.ndarray], None]], *options: str) -> Path:
        recordings = shutil.copytree(street_cache.parent / "recordings", tmp_path / "recordings")
        for split, change in changes.items():
            for path in (recordings / split).glob("*_bbox.npy"):
                boxes = read_boxes(path)
                change(boxes)
                write_boxes(path, boxes)
        command = ["--input", str(recordings), "--output", str(tmp_path / "relabelled")]
        command += ["--time-steps", "2", "--downsample", "4", *options]
        assert preprocess(command) == 0
        return tmp_path / "relabelled"

    return build


def flickering_boxes(rng: np.random.Generator, label_times: int) -> tuple[np.ndarray, np.ndarray]:
    """EVENT and BOX arrays: rectangles full of events, wide cars and tall pedestrians, at 4 Hz."""
    events, boxes = [], np.zeros(label_times, BOX)
    for step in range(label_times):
        start_us = 250_000 * (step + 1)
        label = rng.integers(2)
        w, h = (110, 60) if label == 0 else (50, 120)
        x, y = rng.integers(0, WIDTH - w), rng.integers(0, HEIGHT - h)
        boxes[step] = (start_us + 249_999, x, y, w, h, label, 1, step)
        for n, left, top, width, height in ((2000, 0, 0, WIDTH, HEIGHT), (9000, x, y, w, h)):
            part = np.zeros(n, EVENT)
            part["t"] = rng.integers(start_us, start_us + 249_999, n)
            part["x"] = left + rng.integers(width, size=n)
            part["y"] = top + rng.integers(height, size=n)
            part["p"] = rng.integers(2, size=n)
            events.append(part)
    stream = np.concatenate(events)
    stream = stream[stream["t"].argsort(kind="stable")]
    stream["t"][0], stream["t"][-1] = (
        250_000,
        boxes["t"][-1] - 1,
    )  # strides begin with the first event
    return stream, boxes
