"""What the tests of export share: deployed networks that fire, and windows of a street."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models import build_model
from models.checkpoint import load_model
from models.deploy import deploy
from models.detector import DetectorNetwork
from tests.models.conftest import randomise_batch_norms

SAMPLE = Path(__file__).parents[3] / "checkpoints" / "spikeyolo-p-synthetic.pt"


@pytest.fixture(scope="session")
def sample() -> DetectorNetwork:
    """The network that comes along, deployed: T=2, D=4."""
    return deploy(load_model(SAMPLE)[0])


@pytest.fixture(scope="session")
def fires() -> Callable[..., DetectorNetwork]:
    """fires("ems-res10", **overrides) -> a deployed network whose neurons fire, float32."""

    def build(name: str, **overrides: Any) -> DetectorNetwork:
        torch.manual_seed(0)
        model = build_model(name, **{"variant": "gen1", "time_steps": 2, **overrides})
        randomise_batch_norms(model)
        return deploy(model.eval())

    return build


@pytest.fixture(scope="session")
def windows() -> Callable[..., np.ndarray]:
    """windows(n, T, H, W) -> uint8 [n, T, 2, H, W], bars full of events that move."""

    def draw(n: int, steps: int, height: int, width: int, channels: int = 2) -> np.ndarray:
        rng = np.random.default_rng(3)
        found = rng.poisson(0.1, (n, steps, channels, height, width))
        for window in found:
            top, left = rng.integers(height // 2), rng.integers(width // 2)
            for t in range(steps):
                bar = window[t, :, top : top + height // 3, left + t : left + t + width // 3]
                bar += rng.poisson(1.5, bar.shape)
        return found.astype(np.uint8)

    return draw
