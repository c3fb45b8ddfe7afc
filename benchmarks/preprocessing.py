"""How fast do recordings become samples, beside other ways and beside copying memory?

`python benchmarks/preprocessing.py` makes a recording of 60 s and 40 million events with 240
labels (half a minute and 2 GiB of disk in all), then measures, warm unless it says cold: one
thread from events to histograms [T=4, 2, H, W] over windows of 250 ms, from .dat to HDF5 with
one and two workers, and from HDF5 to batches. A figure is the best of a few repetitions, of one
thread in CPU time, so that other work on the machine matters less; compare within one run.
Writes preprocessing_cpu_<date>.json and .md under benchmarks/results/.
"""

import math
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(sys.path.pop(0))  # else `preprocessing` would be this file, not the room

import numpy as np
import torch
from common import Row, main, table
from torch.utils.data import DataLoader

from gen1.dat import DatReader, write_dat
from gen1.labels import write_boxes
from gen1.recordings import list_recordings
from gen1.spec import BOX, EVENT, GEN1
from preprocessing.augment import AugmentConfig
from preprocessing.build import build
from preprocessing.cache import open_cache, read_sample
from preprocessing.cluster import make_executor
from preprocessing.dataset import HistogramDataset, collate
from preprocessing.geometry import Geometry
from preprocessing.histogram import HistogramSettings, event_histogram, window_histogram

HEIGHT, WIDTH = GEN1.sensor_hw

SECONDS = 60
WINDOW_US = 250_000
SETTINGS = HistogramSettings()
COPIES = 8
MEMCPY_BYTES = 256 << 20
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

    counts = each(lambda t: window_histogram(reader, t, SETTINGS), starts_us)
    polarities = each(lambda t: window_histogram(reader, t, polarity), starts_us)
    cases: list[Case] = [
        ("validation scan", lambda: DatReader(path).order, reader.n_events, 5),
        ("histogram, count", counts, reader.n_events, 5),
        ("histogram, last polarity", polarities, reader.n_events, 3),
        ("numpy memory map + bincount", each(bincount, starts_us[:60]), 10e6, 3),
        ("event_histogram, the slow truth", each(truth, few), 5e5, 3),
        ("tonic to_frame_numpy", each(tonic, few), 5e5, 3),
    ]
    return beside_memcpy(cases)


def beside_memcpy(cases: list[Case]) -> list[Row]:
    """Rates of (method, call, its events, repetitions), each set against memcpy and ours."""
    memcpy = 1 / memcpy_seconds_per_byte()
    rates = {"memcpy of the records": memcpy / 8}
    rates |= {name: events / best_seconds(call, times) for name, call, events, times in cases}
    return [
        {
            "method": method,
            "million events/s": rate / 1e6,
            "GiB/s": rate * 8 / 2**30,
            "% of memcpy": 100 * rate / (memcpy / 8),
            "ours is x times": rates["histogram, count"] / rate,
        }
        for method, rate in rates.items()
    ]


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
        "cold: read into memory": path.read_bytes,
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
    figures = {
        "one worker, windows/s": windows / one[0],
        "two workers, windows/s": windows / two[0],
        "two workers / one": one[0] / two[0],
        "one worker, windows per CPU second": windows / one[1],
        "two workers, windows per CPU second": windows / two[1],
        "KiB per sample": size / windows / 1024,
        "ratio of compression": math.prod(SETTINGS.frame_shape) * windows / size,
        "peak MiB per worker, 60 s": peak_mib(data, cache.with_name("short")),
        "peak MiB per worker, 240 s": long_peak,
    }
    return [{"what": name, "figure": figure} for name, figure in figures.items()]


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

    padded = best_seconds(each(dataset.__getitem__, order), 3)
    figures = {
        "random samples/s, one process": 1000 / raw,
        "random padded samples with targets/s, one process": 1000 / padded,
        "DataLoader, 2 workers, samples/s": len(dataset) / load(dataset, 2),
        "DataLoader, 2 workers, augmented, samples/s": len(dataset) / load(augmented, 2),
    }
    return [{"what": name, "figure": figure} for name, figure in figures.items()]


def measure(given: Namespace) -> tuple[dict[str, Any], str]:
    torch.set_num_threads(1)
    load_before = os.getloadavg()[0]
    if given.scratch:
        given.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        data, long_data = Path(scratch, "data", "train"), Path(scratch, "long", "train")
        for folder in (data, long_data):
            folder.mkdir(parents=True)
        write_recording(data / "r0_td.dat", given.events, SECONDS)
        write_recording(long_data / "r0_td.dat", 4 * given.events, 4 * SECONDS)
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
    result = {
        "question": __doc__.split("\n")[0],
        "events": given.events,
        "seconds": SECONDS,
        "load_average_before": load_before,
        "tables": tables,
    }
    markdown = "\n".join(f"## {title}\n\n{table(rows)}" for title, rows in tables.items())
    return result, f"Load average before, of other work: {load_before:.1f}.\n\n{markdown}"


if __name__ == "__main__":
    options = {
        "--device": {"type": torch.device, "default": "cpu", "choices": [torch.device("cpu")]},
        "--events": {"type": int, "default": 40_000_000, "help": "in the 60 s recording"},
        "--scratch": {"type": Path, "help": "where the recordings go; a temporary place"},
    }
    main(__doc__, measure, options)
