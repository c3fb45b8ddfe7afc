"""How far do boxes lag behind the events of a live stream?

`python benchmarks/streaming.py` sends a simulated street (240x304 px, packets of 10 ms) to
SpikeYOLO-p, -n and -s, deployed, T=4, windows of 250 ms every 50 ms. Two tables: events/s through
the windower alone; and per network the time of a window's histogram, of its padding, of the
forward, of decoding and suppression, then a replay at the recording's own pace: percentiles of the
latency from the end of a window to its boxes, and the windows dropped. Weights are drawn at random
(they cost what trained ones cost, but nearly nothing is left to suppress), but for checkpoints
given with --checkpoint. Writes streaming_<device>_<date>.json and .md under benchmarks/results/.
"""

import statistics
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(sys.path.pop(0))  # else `streaming` would be this file, not the room

import torch
from common import Row, main, table

from gen1.dat import DatReader, write_dat
from gen1.spec import GEN1
from models import build_model
from preprocessing.histogram import HistogramSettings
from simulator.recordings import Settings, simulate
from streaming.detector import Detector
from streaming.live import packets, replay
from streaming.windower import Window, Windower

HEIGHT, WIDTH = GEN1.sensor_hw

SIZES = ("p", "n", "s")
EVERY_US = 50_000
HISTOGRAMS = HistogramSettings(window_us=250_000, time_steps=4)


def windowing(windower: Windower, reader: DatReader) -> tuple[float, int]:
    """Seconds in the windower for a recording in packets, and the windows it made."""
    windower.reset()
    sent = list(packets(reader))
    start = time.perf_counter()
    made = sum(1 for _ in windower.follow(sent))
    return time.perf_counter() - start, made


def windower_rows(reader: DatReader) -> list[Row]:
    rows = []
    for representation in ("count", "last-polarity"):
        for every_us in (EVERY_US, HISTOGRAMS.window_us):
            windower = Windower(replace(HISTOGRAMS, representation=representation), every_us)
            windowing(windower, reader)  # compiles the kernels
            seconds, made = min(windowing(windower, reader) for _ in range(3))
            row = {"representation": representation, "stride ms": every_us // 1000}
            rate = {"events/s": reader.n_events / seconds, "ms per window": 1e3 * seconds / made}
            rows.append({**row, **rate})
    return rows


def windows_of(detector: Detector, reader: DatReader, count: int) -> Iterator[Window]:
    """`count` windows of the recording, from its start again when it is over."""
    while count > 0:
        detector.windower.reset()
        for window in detector.windower.windows(reader.read()):
            if count > 0:
                yield window
            count -= 1


def detector_row(name: str, detector: Detector, reader: DatReader, count: int) -> Row:
    """Medians of the parts of a window, then one replay at the recording's own pace."""
    detector.warm_up()
    found, whole_ms = [], []
    for window in windows_of(detector, reader, count):
        start = time.perf_counter()
        found.append(detector.detect(window))
        whole_ms.append(1e3 * (time.perf_counter() - start))
    seconds, made = windowing(detector.windower, reader)
    forward_ms = statistics.median(part.forward_ms for part in found)
    decode_ms = statistics.median(part.decode_ms for part in found)
    live = replay(detector, reader)
    return {
        "network": name,
        "histogram ms": 1e3 * seconds / made,
        "input ms": statistics.median(whole_ms) - forward_ms - decode_ms,
        "forward ms": forward_ms,
        "decode + NMS ms": decode_ms,
        "boxes per window": statistics.mean(len(part.boxes) for part in found),
        **{f"live {key} ms": value for key, value in live.percentiles().items()},
        "windows": live.windows,
        "dropped": live.dropped,
        "live events/s": live.events_per_s,
    }


def detectors(given: Namespace) -> Iterator[tuple[str, Detector]]:
    """Name and detector, one at a time."""
    device = str(given.device)
    for size in given.sizes:
        torch.manual_seed(0)
        model = build_model(f"spikeyolo-{size}", variant="gen1", time_steps=HISTOGRAMS.time_steps)
        options = {"every_us": EVERY_US, "device": device}
        yield f"spikeyolo-{size}, random weights", Detector(model, HISTOGRAMS, **options)
    for path in given.checkpoint:
        yield str(path), Detector.load(path, every_ms=EVERY_US / 1e3, device=device)


def measure(given: Namespace) -> tuple[dict[str, Any], str]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "street_td.dat")
        write_dat(path, simulate(Settings(given.seconds, seed=0), "test", 0)[0], HEIGHT, WIDTH)
        reader = DatReader(path)
        rate = reader.n_events / given.seconds
        alone = windower_rows(reader)
        rows = [
            detector_row(name, detector, reader, given.windows)
            for name, detector in detectors(given)
        ]
    result = {
        "question": "Streams: how far do boxes lag behind events?",
        "recording": {"seconds": given.seconds, "events/s": rate, "packets ms": 10},
        "score_threshold": 0.3,
        "windower": alone,
        "rows": rows,
    }
    markdown = (
        f"Simulated street, {given.seconds:g} s, {rate:,.0f} events/s, packets of 10 ms; windows "
        "of 250 ms, T=4 (checkpoints: their own); float32, deployed, batch 1; boxes above a score "
        "of 0.3.\n\n"
        f"## The windower alone, one thread\n\n{table(alone)}\n"
        f"## Windows every 50 ms; live at the recording's pace\n\n{table(rows)}"
    )
    return result, markdown


if __name__ == "__main__":
    options = {
        "--sizes": {"nargs": "*", "default": SIZES, "choices": SIZES},
        "--checkpoint": {"nargs": "*", "type": Path, "default": [], "help": "or run directory"},
        "--seconds": {"type": float, "default": 10.0, "help": "length of the recording"},
        "--windows": {"type": int, "default": 50, "help": "of which times are medians"},
    }
    main(__doc__, measure, options)
