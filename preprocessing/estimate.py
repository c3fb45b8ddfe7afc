"""How long preprocessing would take and how large the cache would be, from a few recordings."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from gen1.recordings import Recording
from preprocessing.build import build_recording
from preprocessing.histogram import HistogramSettings

TRIED = 3


@dataclass(frozen=True)
class Estimate:
    """Expected size of a cache in bytes, windows in it, and seconds that one worker needs."""

    windows: int
    size_bytes: int
    seconds: float


def estimate(recordings: list[Recording], settings: HistogramSettings) -> Estimate:
    """Preprocess up to TRIED recordings of the list elsewhere and scale by the files' sizes.

    Raises ValueError if one of them is not usable.
    """
    step = max(1, len(recordings) // TRIED)
    tried = recordings[::step][:TRIED]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sample.h5")
        build_recording(tried[0], path, settings)  # warm: compiled code, cached file
        started, windows, written = time.perf_counter(), 0, 0
        for recording in tried:
            windows += build_recording(recording, path, settings).windows
            written += path.stat().st_size
        seconds = time.perf_counter() - started
    share = sum(map(_size, recordings)) / max(1, sum(map(_size, tried)))
    return Estimate(round(windows * share), round(written * share), seconds * share)


def _size(recording: Recording) -> int:
    return recording.dat.stat().st_size
