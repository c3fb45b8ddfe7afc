"""The benchmark scripts run in their small form; their figures are worth nothing here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize(
    ("script", "rows", "figure"),
    [("ilif", 4, "backward ms"), ("training_step", 4, "images/s")],
)
def test_benchmarks_write_figures_with_their_provenance(tmp_path, script, rows, figure):
    options = ["--device", "cpu", "--seconds", "0", "--batch", "1", "--output", tmp_path]
    options += ["--dtypes", "fp32"] if script == "ilif" else []
    subprocess.run([sys.executable, BENCHMARKS / f"{script}.py", *options], check=True)
    (written,) = tmp_path.glob(f"{script}_cpu_*.json")
    result = json.loads(written.read_text())
    assert {"hardware", "date", "commit", "environment", "question"} <= set(result)
    assert len(result["rows"]) == rows
    assert all(row[figure] > 0 for row in result["rows"])
    assert {row["backend"] for row in result["rows"]} == {"spikingjelly", "torch"}
    assert written.with_suffix(".md").read_text().count("\n|") == rows + 2
