"""Recordings -> files: boxes as *_bbox.npy, JSON lines, videos."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from evaluation.pictures import FramePainter, near
from evaluation.video import MAX_FPS, check_length, pace, write_video
from gen1.atomic import atomic_write, make_way, make_writable
from gen1.dat import DatReader
from gen1.labels import read_boxes, write_boxes
from gen1.recordings import Recording, find_recordings, open_recording
from gen1.spec import BOX, BOX_SUFFIX
from streaming.detector import Detections, Network, load_network
from streaming.recorded import Found, detect, time_range_us
from streaming.settings import StreamConfig

#: Labels, 1 to 4 a second, are drawn so long before and after their time: things move on.
LABEL_US = 50_000
#: Height in px that the sensor is enlarged to at most: a GIF is to stay small.
PICTURE_HEIGHT = {".mp4": 720, ".gif": 480}


def json_line(name: str, found: Detections, classes: Sequence[str]) -> bytes:
    """One window as a line of JSON; boxes in sensor px, classes by name."""
    boxes = [
        {
            **{side: round(float(box[side]), 2) for side in "xywh"},
            "class": classes[box["class_id"]],
            "score": round(float(box["class_confidence"]), 4),
        }
        for box in found.boxes
    ]
    rate = None if found.firing_rate is None else round(found.firing_rate, 6)
    line = {"recording": name, "t_us": found.end_us, "boxes": boxes}
    line |= {"n_events": found.n_events, "firing_rate": rate}
    return json.dumps(line).encode() + b"\n"


def draw(
    config: StreamConfig,
    classes: Sequence[str],
    recording: Recording,
    labels: np.ndarray,
    reader: DatReader,
    found: Found,
    path: Path,
) -> int:
    """Write the video of a recording; returns how many pictures it has."""
    step, fps = pace(path, config.every_us, config.speed)
    windows = found.windows
    window_s = np.array([(w.end_us - w.start_us) / 1e6 for w in windows])
    rates = [float("nan") if w.firing_rate is None else w.firing_rate for w in windows]
    painter = FramePainter(
        recording.name,
        classes,
        found.sensor_hw,
        np.array([w.end_us / 1e6 for w in windows]),
        np.array([w.n_events for w in windows]) / window_s,
        np.array(rates),
        PICTURE_HEIGHT[path.suffix],
        labelled=recording.boxes is not None,
    )
    show_us, near_us = round(1000 * config.show_ms), max(LABEL_US, step * config.every_us // 2)

    def pictures() -> Iterator[np.ndarray]:
        shown = tqdm(windows[::step], "drawing", unit="picture", leave=False, disable=None)
        for window in shown:
            t_us = window.end_us
            events = reader.window(t_us - show_us, t_us)
            yield painter.paint(t_us, events, window.boxes, near(labels, t_us, near_us))

    return write_video(path, pictures(), fps)


def targets(config: StreamConfig, recording: Recording) -> tuple[Path, Path | None]:
    """Where the boxes and the video of a recording go; both directories are made.

    Raises ValueError where boxes would lie beside the recording, as if they were its labels, and
    where nothing can be written.
    """
    folder = config.output / recording.split
    video = config.video
    if video and config.recording.is_dir():
        video = video / recording.split / f"{recording.name}.mp4"
    if folder.resolve() == recording.dat.parent.resolve():
        expected = "expected another --output: boxes found would pass for labels there"
        raise ValueError(f"{folder}: holds the recording, {expected}")
    make_writable(folder)
    if video:
        make_way(video)
    return folder / f"{recording.name}{BOX_SUFFIX}", video


def process(
    config: StreamConfig, network: Network, recording: Recording, lines: BinaryIO | None
) -> None:
    """Detect on one recording, write what was asked for and print a summary."""
    boxes_path, video = targets(config, recording)
    labels = read_boxes(recording.boxes) if video and recording.boxes else np.empty(0, BOX)
    with open_recording(recording.dat, config.height, config.width) as reader:
        start_us, end_us = time_range_us(config, reader)
        if video:
            step, _ = pace(video, config.every_us, config.speed)
            check_length(video, -(-((end_us - start_us) // config.every_us) // step))
        found = detect(config, network, recording, reader, (start_us, end_us))
        write_boxes(boxes_path, found.boxes)
        name = f"{recording.split}/{recording.name}".lstrip("/")
        classes = network.spec.classes
        if lines:
            lines.writelines(json_line(name, window, classes) for window in found.windows)
        print(f"{name}: {found.summary()}")
        print(f"  boxes: {boxes_path}")
        if found.live:
            print("  " + found.live.summary().replace("\n", "\n  "))
        if video:
            count = draw(config, classes, recording, labels, reader, found, video)
            print(f"  video: {video}, {count} pictures")


def run(config: StreamConfig) -> int:
    """Detect on every recording; what is wrong with one is said and does not stop the others.

    The exit code: 1 if anything was wrong. Raises ValueError for what is wrong with all of them.
    """
    recordings, video = find_recordings(config.recording), config.video
    if video and config.recording.is_dir():
        if video.suffix.lower() in MAX_FPS or video.is_file():
            found = f"{config.recording} is a directory of recordings"
            raise ValueError(f"{video}: {found}, expected a directory for the videos")
    elif video:
        pace(video, config.every_us, config.speed)
    if config.jsonl:
        make_way(config.jsonl)
    network, code = load_network(config.checkpoint), 0
    with atomic_write(config.jsonl) if config.jsonl else nullcontext() as lines:
        for recording in recordings:
            try:
                process(config, network, recording, lines)
            except (ValueError, OSError) as error:
                what = f"{recording.name}: {error}"
                if len(recordings) == 1:
                    raise ValueError(what) from None
                print(f"error: {what}", file=sys.stderr)
                code = 1
    if config.jsonl:
        print(f"lines: {config.jsonl}")
    return code
