"""Does it help to carry membranes from window to window?

`python benchmarks/carried_state.py CHECKPOINT RECORDINGS_DIR` runs the network over each recording
of RECORDINGS_DIR/test in windows that follow one another, once with neurons at rest at the start
of every window, as in training, and once with the membranes the window before left. Both are
scored at the labels whose time is the end of a window, within 50 ms, protocol prophesee. Without
arguments: the sample checkpoint on six simulated streets. Writes carried_state_<device>_<date>.json
and .md under benchmarks/results/.
"""

import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

sys.path.append(sys.path.pop(0))  # else `streaming` would be the benchmark, not the room

import numpy as np
import torch
from common import Row, main, table
from tqdm import tqdm

from gen1.coco import evaluate
from gen1.dat import DatReader
from gen1.labels import read_boxes
from gen1.protocol import PROTOCOLS
from gen1.recordings import Recording, list_recordings
from gen1.spec import BOX
from models.checkpoint import checkpoint_file, load_checkpoint
from models.decode import DetectConfig
from preprocessing.inputs import input_of
from simulator.recordings import Settings, plan
from streaming.detector import Detector
from streaming.recorded import detect_range

SAMPLE = Path(__file__).parents[1] / "checkpoints" / "spikeyolo-p-synthetic.pt"
PROTOCOL = PROTOCOLS["prophesee"]


def found_in(detector: Detector, reader: DatReader) -> tuple[np.ndarray, list[float]]:
    """BOX [n] of all windows of a recording, and their firing rates."""
    window_us = detector.settings.window_us
    detector.reset()
    end_us = -(-(reader.order.last_us + 1) // window_us) * window_us
    windows = list(detect_range(detector, reader, 0, end_us))
    boxes = np.concatenate([np.empty(0, BOX), *(window.boxes for window in windows)])
    return boxes, [window.firing_rate or 0.0 for window in windows]


def labels_of(recording: Recording, window_us: int) -> np.ndarray:
    """The labels, BOX [n], at the ends of windows."""
    assert recording.boxes is not None
    labels = read_boxes(recording.boxes)
    away_us = np.abs((labels["t"] + window_us // 2) % window_us - window_us // 2)
    return labels[away_us <= PROTOCOL.tolerance_us]


def row(detector: Detector, membranes: str, recordings: list[Recording]) -> Row:
    """mAP and firing rate over all recordings."""
    labels, detections, rates = [], [], []
    for recording in tqdm(recordings, membranes, unit="recording", leave=False, disable=None):
        boxes, firing = found_in(detector, DatReader(recording.dat))
        labels.append(labels_of(recording, detector.settings.window_us))
        detections.append(boxes)
        rates += firing
    metrics = evaluate(labels, detections, PROTOCOL)
    return {
        "membranes": membranes,
        "mAP": metrics.map_50_95,
        "mAP@50": metrics.map_50,
        **{f"mAP {name}": ap for name, (ap, _) in metrics.per_class.items()},
        "firing rate": float(np.mean(rates)),
        "windows": len(rates),
        "labels": metrics.n_labels,
    }


def compare(
    checkpoint: Path, recordings: list[Recording], device: torch.device
) -> tuple[list[Row], float]:
    """A row at rest and a row carried, and the length of their windows in ms."""
    path = checkpoint_file(checkpoint)
    loaded = load_checkpoint(path)
    window_ms = input_of(loaded.meta, path)[0].window_us / 1e3
    rows = []
    for membranes in ("at rest", "carried"):
        detector = Detector.load(
            path,
            every_ms=window_ms,
            start_us=0,
            score_threshold=DetectConfig.score_threshold,
            device=str(device),
            carry_state=membranes == "carried",
            count_spikes=True,
        )
        rows.append(row(detector, membranes, recordings))
    return rows, window_ms


def simulated(folder: Path) -> Path:
    """Six streets of 10 s, of a seed that nothing else here uses."""
    for job in plan(folder, {"test": 6}, Settings(10.0, seed=99)):
        job.run()
    return folder


def measure(given: Namespace) -> tuple[dict[str, Any], str]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.recordings or simulated(Path(scratch))
        recordings = [r for r in list_recordings(folder) if r.split == "test"][: given.count]
        rows, window_ms = compare(given.checkpoint, recordings, given.device)
    result = {
        "question": "Does it help to carry membranes from window to window?",
        "checkpoint": given.checkpoint.name,
        "recordings": len(recordings),
        "window_ms": window_ms,
        "protocol": PROTOCOL.name,
        "rows": rows,
    }
    rule = (
        f"Checkpoint {given.checkpoint.name}, {len(recordings)} recordings, windows of "
        f"{window_ms:g} ms one after the other; protocol {PROTOCOL.name} ({PROTOCOL.in_words()}), "
        f"labels at the ends of windows, scores from {DetectConfig.score_threshold:g}."
    )
    return result, f"{rule}\n\n{table(rows)}"


if __name__ == "__main__":
    options = {
        "checkpoint": {"nargs": "?", "type": Path, "default": SAMPLE, "help": "or run directory"},
        "recordings": {"nargs": "?", "type": Path, "help": "directory that holds test/"},
        "--count": {"type": int, "help": "only the first so many recordings"},
    }
    main(__doc__, measure, options)
