"""What does another format cost beside a .dat?

`python benchmarks/opening.py` simulates a recording (240x304 px), writes it as `.dat` and in the
layouts of RVT's mirror (`.dat.h5`, Blosc zstd with bit shuffle) and of NumPy, and preprocesses each
with one worker: windows/s of the best of three, beside the .dat in the same run, and the peak
memory of the process, for the recording and for one four times as long. Once with all events and
once with every third, as fewer events leave more of the time to the windows themselves. Writes
opening_cpu_<date>.json and .md under benchmarks/results/.
"""

import shutil
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(sys.path.pop(0))

import h5py
import hdf5plugin
import numpy as np
from common import Row, main, table

from gen1.dat import write_dat
from gen1.labels import write_boxes
from gen1.spec import GEN1
from simulator.recordings import Settings, simulate

REPEATS = 3
#: Runs in a process of its own, so that its peak memory is its own; compiled code is warm.
SCRIPT = """
import sys, time
from pathlib import Path
from preprocessing.build import build_recording
from preprocessing.histogram import HistogramSettings
from gen1.recordings import list_recordings
(recording,), settings = list_recordings(sys.argv[1]), HistogramSettings()
path, seconds = Path(sys.argv[1], "cache.tmp"), []
for _ in range(int(sys.argv[2]) + 1):
    started = time.perf_counter()
    windows = build_recording(recording, path, settings).windows
    seconds.append(time.perf_counter() - started)
status = Path("/proc/self/status").read_text()
print(windows / min(seconds[1:]), int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


def write_h5(path: Path, events: np.ndarray) -> None:
    codec = hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=hdf5plugin.Blosc.BITSHUFFLE)
    kinds = {"x": "<u2", "y": "<u2", "p": "i1", "t": "<i8"}
    with h5py.File(path, "w") as file:
        for name, kind in kinds.items():
            file.create_dataset(
                f"events/{name}", data=events[name].astype(kind), chunks=(1 << 16,), **codec
            )
        file["events/height"], file["events/width"] = GEN1.sensor_hw


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "_td.dat": lambda path, events: write_dat(path, events, *GEN1.sensor_hw),
    "_td.dat.h5": write_h5,
    ".npy": np.save,
}


def measure(given: Namespace) -> tuple[dict[str, Any], str]:
    events, boxes = simulate(Settings(given.seconds, seed=0), "test", 0)
    rows = [row for every in (1, 3) for row in formats(events[::every], boxes)]
    result = {"question": "What does another format cost beside a .dat?", "formats": rows}
    return result, f"{given.seconds:g} s of a street.\n\n{table(rows)}"


def formats(events: np.ndarray, boxes: np.ndarray) -> list[Row]:
    """A row per format of the same events."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for ending, write in WRITERS.items():
            figures = []
            for copies in (1, 4):
                place = Path(folder, f"{copies}{ending}")
                place.mkdir()
                long, labels = repeated(events, boxes, copies)
                write(place / f"r{ending}", long)
                write_boxes(place / "r_bbox.npy", labels)
                figures.append(run(place))
                shutil.rmtree(place)
            (rate, peak), (_, long_peak) = figures
            row = {"million events": len(events) / 1e6, "format": ending, "windows/s": rate}
            row |= {"beside .dat": rate / rows[0]["windows/s"] if rows else 1.0}
            row |= {"peak MiB": peak, "peak MiB, 4 times as long": long_peak}
            rows.append(row)
    return rows


def repeated(events: np.ndarray, boxes: np.ndarray, copies: int) -> tuple[np.ndarray, np.ndarray]:
    """The same again and again, each later than the last."""
    step_us = int(boxes["t"].max()) + 1
    parts = [(events.copy(), boxes.copy()) for _ in range(copies)]
    for k, part in enumerate(parts):
        for array in part:
            array["t"] += k * step_us
    return np.concatenate([e for e, _ in parts]), np.concatenate([b for _, b in parts])


def run(place: Path) -> tuple[float, float]:
    """Windows/s and peak MiB of preprocessing a folder's recording."""
    command = [sys.executable, "-c", SCRIPT, str(place), str(REPEATS)]
    done = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(done[0]), float(done[1])


if __name__ == "__main__":
    options = {"--seconds": {"type": float, "default": 10.0, "help": "length of the recording, s"}}
    main(__doc__, measure, options)
