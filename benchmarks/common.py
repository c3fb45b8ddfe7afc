"""What benchmark scripts share: their command line, timing on either device, files of results."""

import argparse
import datetime
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

# Else benchmarks/preprocessing.py, beside the script, would hide the room of that name.
sys.path.insert(0, str(Path(__file__).parents[1]))

from evaluation.provenance import commit, environment

RESULTS = Path(__file__).parent / "results"
Row = dict[str, Any]


def main(
    about: str,
    measure: Callable[[argparse.Namespace], tuple[dict[str, Any], str]],
    options: dict[str, dict[str, Any]],
) -> None:
    """The command line of a benchmark script: measure, write to results/, print.

    about: its docstring. measure: given options -> what the .json holds, its "question" and tables
    of rows, and the text of the .md. options: name -> how argparse takes it, beside --device and
    --output. Ends in an error if a row says that it failed.
    """
    default = "cuda" if torch.cuda.is_available() else "cpu"
    common = {
        "--device": {"type": torch.device, "default": default, "help": "cpu or cuda"},
        "--output": {"type": Path, "default": RESULTS, "help": "directory of the figures"},
    }
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, option in {**common, **options}.items():
        parser.add_argument(name, **option)
    given = parser.parse_args()
    result, markdown = measure(given)
    path = write(Path(sys.argv[0]).stem, result, markdown, given.device, given.output)
    print(f"{path.read_text()}\n{path}")
    report_failures(result)


def report_failures(result: dict[str, Any]) -> None:
    """End the script with an error if a variant failed, after all figures are written."""
    tables = [table for table in result.values() if isinstance(table, list)]
    rows = [row for table in tables for row in table if "failed" in row]
    failed = sum(row["failed"] is not None for row in rows)
    if failed:
        raise SystemExit(f"{failed} of {len(rows)} variants failed: see the last column")


def median_ms(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Median time of one call, over some `seconds` of calls after as long a warm-up."""
    warm_up: list[float] = []
    while sum(warm_up) < 1e3 * seconds or not warm_up:
        warm_up.append(one_call_ms(call, device))
    times: list[float] = []
    while sum(times) < 1e3 * seconds or not times:
        times.append(one_call_ms(call, device))
    return statistics.median(times)


def one_call_ms(call: Callable[[], object], device: torch.device) -> float:
    """On a GPU the time between two events in its stream, else the time of the clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - start)
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    call()
    after.record()
    after.synchronize()
    return before.elapsed_time(after)


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = f"{names[0]}, {len(names)} cores" if names else platform.processor()
    return f"{name}, {torch.get_num_threads()} threads"


def provenance(device: torch.device) -> dict[str, Any]:
    """Hardware, date, commit and versions: what a figure needs beside it."""
    packages = environment()
    for name in ("triton", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    if device.type == "cuda":
        packages["cuda"] = str(torch.version.cuda)
        packages["driver"] = driver_version()
    return {
        "hardware": hardware(device),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "environment": packages,
    }


def driver_version() -> str:
    path = Path("/proc/driver/nvidia/version")
    return path.read_text().splitlines()[0] if path.exists() else "unknown"


def reason(error: Exception) -> str:
    """An error in one line of a table."""
    return " ".join(f"{type(error).__name__}: {error}".replace("|", "/").split())[:160]


def table(rows: Sequence[Row]) -> str:
    """Rows of equal keys as a markdown table; floats to three significant digits, None as -."""

    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f"{float(f'{value:.3g}'):,g}"
        if isinstance(value, int):
            return f"{value:,}"
        return "-" if value is None else str(value)

    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
    lines += ["| " + " | ".join(cell(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write(
    theme: str, result: dict[str, Any], markdown: str, device: torch.device, folder: Path
) -> Path:
    """`folder`/theme_device_date.json and .md, both headed by question and provenance."""
    made = {"question": result["question"], **provenance(device), **result}
    packages = ", ".join(f"{name} {text}" for name, text in made["environment"].items())
    head = f"# {made['question']}\n\n{made['hardware']}, {made['date']}, commit {made['commit']}\n"
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{theme}_{device.type}_{made['date']}"
    stem.with_suffix(".json").write_text(json.dumps(made, indent=1) + "\n")
    stem.with_suffix(".md").write_text(f"{head}({packages}).\n\n{markdown}")
    return stem.with_suffix(".md")
