"""The tour's cells run, in a clone with nothing prepared."""

import json
from pathlib import Path

import matplotlib
import pytest

TOUR = Path(__file__).parents[1] / "docs" / "tour.ipynb"


@pytest.mark.slow
def test_every_cell_runs_and_the_network_sees_something(tmp_path, monkeypatch):
    matplotlib.use("Agg")
    monkeypatch.chdir(TOUR.parent)
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path))
    cells = [c for c in json.loads(TOUR.read_text())["cells"] if c["cell_type"] == "code"]
    assert all(cell["outputs"] or "print" not in "".join(cell["source"]) for cell in cells)
    names: dict = {"__name__": "tour"}
    for cell in cells:
        exec("".join(cell["source"]), names)
    assert names["found"]["class_confidence"].max() > 0.3
    assert names["energy"].ratio > 5
    assert names["result"].end_us >= 1_900_000
