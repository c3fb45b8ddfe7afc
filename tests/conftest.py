"""Fixtures every room's tests share."""

from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def golden():
    """golden("gen1/fx_dat.npz") -> the open npz file of figures computed elsewhere."""
    return lambda name: np.load(GOLDEN / name, allow_pickle=False)


@pytest.fixture(scope="session")
def shared_data():
    """shared_data("x.dat") -> path of a real recording; skips the test where it is absent."""

    def locate(name: str) -> Path:
        path = SHARED_DATA / name
        if not path.exists():
            pytest.skip(f"real recording {name} is not on this machine")
        return path

    return locate
