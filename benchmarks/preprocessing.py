"""How fast do recordings become samples, beside other ways and beside copying memory?

`python benchmarks/preprocessing.py` makes a recording of 60 s and 40 million events with 240
labels (half a minute and 2 GiB of disk in all), then measures, warm unless it says cold: one
thread from events to histograms [T=4, 2, 240, 304] over windows of 250 ms, from .dat to HDF5 with
one and two workers, and from HDF5 to batches. A figure is the best of a few repetitions, of one
thread in CPU time, so that other work on the machine matters less; compare within one run.
Writes preprocessing_cpu_<date>.json and .md under benchmarks/results/.
"""

import argparse
import datetime
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.pop(0)  # else `preprocessing` would be this file, not the room

import numpy as np
import torch
from torch.utils.data import DataLoader

from evaluation.provenance import commit, environment
from gen1.dat import DatReader, write_dat
from gen1.labels import write_boxes
from gen1.recordings import list_recordings
from gen1.spec import BOX, EVENT, HEIGHT, WIDTH
from preprocessing.augment import AugmentConfig
from preprocessing.build import build
from preprocessing.cache import open_cache, read_sample
from preprocessing.cluster import make_executor
from preprocessing.dataset import HistogramDataset, collate
from preprocessing.geometry import Geometry
from preprocessing.histogram import (
    HistogramSettings,
    event_histogram,
    window_histogram,
)

RESULTS = Path(__file__).parent / "results"
SECONDS = 60
WINDOW_US = 250_000
SETTINGS = HistogramSettings()
COPIES = 8
MEMCPY_BYTES = 256 << 20
Row = dict[str, Any]
Case = tuple[str, Callable[[], object], float, int]


def write_recording(path: Path, n_events: int, seconds: int) -> None:
    """A recording of 12,000 moving points, each firing into a small neighbourhood, with labels."""
    rng = np.random.default_rng(0)
    points = 12_000
    x, y = rng.uniform(0, WIDTH, points), rng.uniform(0, HEIGHT, points)
    speed_x, speed_y = rng.normal(0, 20, (2, points))
    write_dat(path, np.zeros(0, EVENT), HEIGHT, WIDTH)
    with path.open("ab") as file:
        for first in range(0, n_events, 1_000_000):
            index = np.arange(first, min(first + 1_000_000, n_events))
            t_us = index * (seconds * 1_000_000) // n_events
            point = rng.integers(0, points, len(index))
            column = x[point] + speed_x[point] * t_us * 1e-6 + 2 * rng.random(len(index))
            row = y[point] + speed_y[point] * t_us * 1e-6 + 2 * rng.random(len(index))
            address = column.astype(np.int64) % WIDTH | row.astype(np.int64) % HEIGHT << 14
            records = np.stack([t_us, address | (point & 1) << 28], axis=1)
            file.write(records.astype("<u4").data)
    boxes = np.zeros(seconds * 1_000_000 // WINDOW_US, BOX)
    boxes["t"] = np.arange(1, len(boxes) + 1) * WINDOW_US - 1
    boxes["x"], boxes["y"], boxes["w"], boxes["h"] = 50, 60, 40, 30
    write_boxes(path.with_name(path.name.replace("_td.dat", "_bbox.npy")), boxes)


def best_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Shortest CPU time of this thread for a few calls, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        start = time.thread_time()
        call()
        times.append(time.thread_time() - start)
    return min(times[1:])


def each(function: Callable[[int], object], arguments: list[int]) -> Callable[[], None]:
    """Calls the function with every argument; results are not kept, as memory has its price."""

    def call() -> None:
        for argument in arguments:
            function(argument)

    return call


def memcpy_seconds_per_byte() -> float:
    source, target = np.ones(MEMCPY_BYTES, np.uint8), np.empty(MEMCPY_BYTES, np.uint8)
    return best_seconds(lambda: np.copyto(target, source)) / MEMCPY_BYTES


def bincount_histogram(reader: DatReader, times_us: np.ndarray, start_us: int) -> np.ndarray:
    """The usual way with numpy: bisect the memory map, decode, one bincount."""
    window = np.array([start_us, start_us + WINDOW_US], times_us.dtype)  # no copy of times_us
    first, last = np.searchsorted(times_us, window)
    part = reader.records[first:last]
    address = part[:, 1]
    step = (part[:, 0].astype(np.int64) - start_us) * 4 // WINDOW_US
    cell = ((step * 2 + (address >> 28 & 1)) * HEIGHT + (address >> 14 & 16383)) * WIDTH
    counts = np.bincount(cell + (address & 16383), minlength=4 * 2 * HEIGHT * WIDTH)
    return np.minimum(counts, 255).astype(np.uint8).reshape(4, 2, HEIGHT, WIDTH)


def histogram_rows(path: Path) -> list[Row]:
    """One thread from events to histograms: ours, what others do, and copying memory."""
    from tonic.functional import to_frame_numpy

    reader = DatReader(path)
    starts_us = [i * WINDOW_US for i in range(int(reader.duration_us // WINDOW_US))]
    few = starts_us[100:103]
    polarity = replace(SETTINGS, representation="last-polarity")
    # searchsorted would copy a strided field whole at every call: numpy gets it copied for free
    times_us = np.ascontiguousarray(reader.records[:, 0])
    decoded = {t: reader.window(t, t + WINDOW_US) for t in few}  # and tonic decoded events

    def bincount(start_us: int) -> np.ndarray:
        return bincount_histogram(reader, times_us, start_us)

    def tonic(start_us: int) -> np.ndarray:
        span = {"start_time": start_us, "end_time": start_us + WINDOW_US}
        size = {"sensor_size": (WIDTH, HEIGHT, 2), "time_window": WINDOW_US / 4}
        return to_frame_numpy(decoded[start_us], **size, **span)

    def truth(start_us: int) -> np.ndarray:
        events = reader.window(start_us, start_us + WINDOW_US)
        return event_histogram(events, start_us, WINDOW_US, 4, HEIGHT, WIDTH)

    for start_us in few:
        expected = window_histogram(reader, start_us, SETTINGS)[0]
        assert np.array_equal(expected, bincount(start_us))
        assert np.array_equal(expected, truth(start_us))
        assert np.array_equal(expected, np.minimum(tonic(start_us), 255))

    def scan() -> object:
        return DatReader(path).order

    cases: list[Case] = [
        ("validation scan", scan, reader.n_events, 5),
        (
            "histogram, count",
            each(lambda t: window_histogram(reader, t, SETTINGS), starts_us),
            reader.n_events,
            5,
        ),
        (
            "histogram, last polarity",
            each(lambda t: window_histogram(reader, t, polarity), starts_us),
            reader.n_events,
            3,
        ),
        ("numpy memory map + bincount", each(bincount, starts_us[:60]), 10e6, 3),
        ("event_histogram, the slow truth", each(truth, few), 5e5, 3),
        ("tonic to_frame_numpy", each(tonic, few), 5e5, 3),
    ]
    return beside_memcpy(cases)


def beside_memcpy(cases: list[Case]) -> list[Row]:
    """Rates of (method, call, its events, repetitions), each set against memcpy and ours."""
    memcpy = 1 / memcpy_seconds_per_byte()
    rows: list[Row] = [
        {
            "method": "memcpy of the records",
            "million events/s": memcpy / 8e6,
            "GiB/s": memcpy / 2**30,
        }
    ]
    for method, call, n_events, repeats in cases:
        rate = n_events / best_seconds(call, repeats)
        rows.append({"method": method, "million events/s": rate / 1e6, "GiB/s": rate * 8 / 2**30})
    ours = next(row for row in rows if row["method"] == "histogram, count")["million events/s"]
    for row in rows:
        row["% of memcpy"] = 100 * row["million events/s"] / rows[0]["million events/s"]
        row["ours is x times"] = ours / row["million events/s"]
    return rows


def cold_seconds(path: Path, call: Callable[[], object]) -> float:
    """Time of a call after the system has dropped the file from its memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def cold_rows(path: Path) -> list[Row]:
    size = path.stat().st_size / 2**30
    cases = {
        "cold: read into memory": lambda: path.read_bytes(),
        "cold: validation scan": lambda: DatReader(path).order,
    }
    return [
        {"what": name, "GiB/s": size / min(cold_seconds(path, call) for _ in range(3))}
        for name, call in cases.items()
    ]


def build_seconds(data: Path, cache: Path, workers: int) -> tuple[float, float]:
    """Preprocess COPIES recordings: best of three in wall time, mean of four in CPU time."""
    recordings = list_recordings(data)
    times, cpu_before = [], cpu_seconds()
    with make_executor(workers) as executor:
        for _ in range(4):
            shutil.rmtree(cache, ignore_errors=True)
            start = time.perf_counter()
            outcomes = list(build(recordings, cache, SETTINGS, executor, in_flight=2 * workers))
            times.append(time.perf_counter() - start)
            assert not any(outcome.error for outcome in outcomes)
    return min(times[1:]), (cpu_seconds() - cpu_before) / 4


def cpu_seconds() -> float:
    """Used so far by this process and those of its children that have ended."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_mib(data: Path, cache: Path) -> float:
    """Peak resident memory of `python -m preprocessing` with one worker, in MiB."""
    arguments = ["--input", str(data), "--output", str(cache)]
    script = (
        f"from preprocessing.__main__ import main; assert main({arguments}) == 0; "
        "from pathlib import Path; print(Path('/proc/self/status').read_text())"
    )
    command = [sys.executable, "-c", script]
    status = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    shutil.rmtree(cache)
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def build_rows(data: Path, long_data: Path, cache: Path) -> list[Row]:
    """.dat to HDF5, and what a worker needs."""
    windows = COPIES * SECONDS * 1_000_000 // WINDOW_US
    two, one = (build_seconds(data, cache, workers) for workers in (2, 1))
    size = sum(path.stat().st_size for path in cache.rglob("*.h5"))
    long_peak = peak_mib(long_data, cache.with_name("long"))
    return [
        {"what": "one worker, windows/s", "figure": windows / one[0]},
        {"what": "two workers, windows/s", "figure": windows / two[0]},
        {"what": "two workers / one", "figure": one[0] / two[0]},
        {"what": "one worker, windows per CPU second", "figure": windows / one[1]},
        {"what": "two workers, windows per CPU second", "figure": windows / two[1]},
        {"what": "KiB per sample", "figure": size / windows / 1024},
        {"what": "ratio of compression", "figure": np.prod(SETTINGS.frame_shape) * windows / size},
        {"what": "peak MiB per worker, 60 s", "figure": peak_mib(data, cache.with_name("short"))},
        {"what": "peak MiB per worker, 240 s", "figure": long_peak},
    ]


def read_rows(cache: Path) -> list[Row]:
    """HDF5 to samples and batches."""
    dataset = HistogramDataset(cache, "train", Geometry())
    augmented = HistogramDataset(cache, "train", Geometry(), AugmentConfig())
    order = np.random.default_rng(0).permutation(len(dataset))[:1000].tolist()
    with open_cache(next(cache.rglob("*.h5"))) as file:
        rows = np.random.default_rng(1).integers(0, len(file["frames"]), 1000).tolist()
        raw = best_seconds(each(lambda row: read_sample(file, row), rows), 3)

    def load(source: HistogramDataset, workers: int) -> float:
        options = {"num_workers": workers, "collate_fn": collate, "shuffle": True}
        loader = DataLoader(source, 32, persistent_workers=workers > 0, **options)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            assert sum(len(batch.recordings) for batch in loader) == len(source)
            times.append(time.perf_counter() - start)
        return min(times[1:])

    return [
        {"what": "random samples/s, one process", "figure": 1000 / raw},
        {
            "what": "random padded samples with targets/s, one process",
            "figure": 1000 / best_seconds(each(dataset.__getitem__, order), 3),
        },
        {"what": "DataLoader, 2 workers, samples/s", "figure": len(dataset) / load(dataset, 2)},
        {
            "what": "DataLoader, 2 workers, augmented, samples/s",
            "figure": len(dataset) / load(augmented, 2),
        },
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--events", type=int, default=40_000_000, help="in the 60 s recording")
    parser.add_argument("--scratch", type=Path, help="where the recordings go; a temporary place")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load_before = os.getloadavg()[0]
    if arguments.scratch:
        arguments.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        data, long_data = Path(scratch, "data", "train"), Path(scratch, "long", "train")
        for folder in (data, long_data):
            folder.mkdir(parents=True)
        write_recording(data / "r0_td.dat", arguments.events, SECONDS)
        write_recording(long_data / "r0_td.dat", 4 * arguments.events, 4 * SECONDS)
        for i in range(1, COPIES):
            for suffix in ("td.dat", "bbox.npy"):
                os.link(data / f"r0_{suffix}", data / f"r{i}_{suffix}")
        cache = Path(scratch, "cache")
        tables = {
            "Events to histograms, one thread": histogram_rows(data / "r0_td.dat"),
            "Cold files": cold_rows(data / "r0_td.dat"),
            "Recordings to HDF5": build_rows(data.parent, long_data.parent, cache),
            "HDF5 to batches": read_rows(cache),
        }
    markdown = "\n".join(f"## {title}\n\n{table(rows)}" for title, rows in tables.items())
    made = {
        "question": __doc__.split("\n")[0],
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "environment": environment(),
        "events": arguments.events,
        "seconds": SECONDS,
        "load_average_before": load_before,
        "tables": tables,
    }
    head = f"# {made['question']}\n\n{made['hardware']}, {made['date']}, commit {made['commit']}; "
    head += f"other work on the machine before: load average {load_before:.1f}.\n\n"
    arguments.output.mkdir(parents=True, exist_ok=True)
    stem = arguments.output / f"preprocessing_cpu_{made['date']}"
    stem.with_suffix(".json").write_text(json.dumps(made, indent=1) + "\n")
    stem.with_suffix(".md").write_text(head + markdown)
    print(head + markdown + str(stem))


def hardware() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores"


def table(rows: list[Row]) -> str:
    """Rows of equal keys as a markdown table, floats to three significant digits."""

    def cell(value: Any) -> str:
        return str(value) if isinstance(value, str) else f"{float(f'{value:.3g}'):,g}"

    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(map(cell, row.values())) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
