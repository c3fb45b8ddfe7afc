"""The benchmark scripts run in their small form; their figures are worth nothing here."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from models import build_model
from models.checkpoint import save_checkpoint
from preprocessing.histogram import HistogramSettings

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ILIF = {"spikingjelly", "torch", "plain loop"}
TRAINING = {
    "as the authors run it",
    "backend spikingjelly",
    "backend torch",
    "ANN twin, ReLU",
    "ANN twin, quantised",
}
INFERENCE = TRAINING | {"not folded", "contiguous"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "column", "names", "rows", "figure"),
    [
        ("ilif", "backend", ILIF, 6, "backward ms"),
        ("train_step", "variant", TRAINING, 5, "images/s"),
        ("inference", "variant", INFERENCE, 7, "images/s"),
    ],
)
def test_figures_come_with_their_provenance(tmp_path, script, column, names, rows, figure):
    options = ["--device", "cpu", "--seconds", "0", "--batch", "1", "--output", tmp_path]
    options += ["--dtypes", "fp32"] if script == "ilif" else []
    subprocess.run([sys.executable, BENCHMARKS / f"{script}.py", *options], check=True)
    (written,) = tmp_path.glob(f"{script}_cpu_*.json")
    result = json.loads(written.read_text())
    assert {"hardware", "date", "commit", "environment", "question"} <= set(result)
    assert len(result["rows"]) == rows
    assert {row[column] for row in result["rows"]} == names
    assert all(row[figure] > 0 for row in result["rows"])
    if script != "ilif":
        assert sum(kind["share"] for kind in result["kinds"]) == pytest.approx(1)
        assert "convolution" in {kind["kind"] for kind in result["kinds"][:3]}
    markdown = written.with_suffix(".md").read_text()
    assert all(name in markdown for name in names)


@pytest.mark.slow
def test_a_stream_is_measured_in_all_its_parts(tmp_path):
    options = ["--device", "cpu", "--sizes", "p", "--seconds", "0.5", "--windows", "2"]
    command = [sys.executable, BENCHMARKS / "streaming.py", *options, "--output", tmp_path]
    subprocess.run(command, check=True)
    (written,) = tmp_path.glob("streaming_cpu_*.json")
    result = json.loads(written.read_text())
    assert {"hardware", "date", "commit", "environment", "question"} <= set(result)
    assert all(row["events/s"] > 0 for row in result["windower"])
    (row,) = result["rows"]
    assert row["network"] == "spikeyolo-p, random weights"
    assert row["windows"] == 10
    assert 0 <= row["dropped"] < 10
    for part in ("histogram", "input", "forward", "decode + NMS"):
        assert row[f"{part} ms"] > 0
    assert row["live p50 ms"] <= row["live p90 ms"] <= row["live p99 ms"] <= row["live max ms"]


@pytest.mark.slow
def test_membranes_at_rest_and_carried_are_compared(tmp_path, street_cache):
    torch.manual_seed(0)
    model = build_model("spikeyolo-p", variant="gen1", time_steps=2)
    meta = {"input": "histogram"}
    meta["histogram"] = asdict(HistogramSettings(time_steps=2, downsample=4))
    save_checkpoint(tmp_path / "best.pt", model.config, model.state_dict(), meta)
    recordings = street_cache.parent / "recordings"
    command = [sys.executable, BENCHMARKS / "carried_state.py", tmp_path, recordings]
    subprocess.run([*command, "--count", "1", "--device", "cpu", "--output", tmp_path], check=True)
    (written,) = tmp_path.glob("carried_state_cpu_*.json")
    result = json.loads(written.read_text())
    assert result["window_ms"] == 250
    rested, carried = result["rows"]
    assert (rested["membranes"], carried["membranes"]) == ("at rest", "carried")
    assert rested["windows"] == carried["windows"] == 5  # to 1.25 s
    assert rested["labels"] == carried["labels"] > 0
    assert all(0 <= row["mAP"] <= 1 and 0 < row["firing rate"] < 1 for row in result["rows"])
    assert rested["firing rate"] != carried["firing rate"]


@pytest.mark.slow
def test_every_form_of_a_network_is_measured_and_its_kernels_counted(tmp_path):
    options = ["--device", "cpu", "--sizes", "p", "--seconds", "0", "--output", tmp_path]
    command = [sys.executable, BENCHMARKS / "deploy.py", "--height", "32", "--width", "64"]
    subprocess.run([*command, *options], check=True)
    (written,) = tmp_path.glob("deploy_cpu_*.json")
    result = json.loads(written.read_text())
    assert {"hardware", "date", "commit", "environment", "question"} <= set(result)
    rows = {row["form"]: row for row in result["rows"]}
    assert [*rows] == ["trained", "deployed", "spike-driven"]
    assert [row["convolutions"] for row in rows.values()] == [129, 89, 89]
    assert [row["batch norms"] for row in rows.values()] == [123, 0, 0]
    assert rows["trained"]["GMAC"] < rows["deployed"]["GMAC"] < rows["spike-driven"]["GMAC"]
    assert all(row["ms"] > 0 for row in rows.values())
    assert all(name in written.with_suffix(".md").read_text() for name in rows)


@pytest.mark.slow
def test_engines_take_turns(tmp_path):
    pytest.importorskip("onnxruntime")
    options = ["--sizes", "p", "--height", "32", "--width", "64", "--seconds", "0"]
    command = [sys.executable, BENCHMARKS / "engines.py", *options, "--output", tmp_path]
    subprocess.run([*command, "--threads", "1", "--clock", "cpu"], check=True)
    (written,) = tmp_path.glob("engines_cpu_*.json")
    rows = json.loads(written.read_text())["rows"]
    names = ["torch float32", "onnxruntime float32", "onnxruntime int8"]
    assert [row["engine"] for row in rows] == names
    assert rows[0]["speed-up"] == 1
    assert all(row["windows/s"] > 0 for row in rows)
