"""Recording -> boxes at every moment: *_bbox.npy, JSON lines, a video to look at."""

import json
import re
import sys
import time
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter
from tqdm import tqdm

from evaluation.pictures import FramePainter, class_name, near
from evaluation.video import MAX_FPS, check_length, pace, write_video
from gen1.atomic import atomic_write, make_way, make_writable
from gen1.dat import DatReader
from gen1.labels import read_boxes, write_boxes
from gen1.recordings import Recording, find_recordings, open_recording
from gen1.spec import BOX, BOX_SUFFIX
from models.checkpoint import checkpoint_file, load_model
from models.detector import DetectorNetwork
from preprocessing.denoise import hot_pixels
from preprocessing.ending import fail, leave
from preprocessing.histogram import HistogramSettings
from preprocessing.inputs import input_of
from streaming.detector import Detections, Detector
from streaming.live import LiveReport, replay
from streaming.recorded import Found, check_silence, detect_range, energy_per_window, oddities

SAMPLE_CHECKPOINT = Path(__file__).parent / "checkpoints" / "spikeyolo-p-synthetic.pt"
#: Labels, 1 to 4 a second, are drawn so long before and after their time: things move on.
LABEL_US = 50_000
#: Height in px that the sensor is enlarged to at most: a GIF is to stay small.
PICTURE_HEIGHT = {".mp4": 720, ".gif": 480}

DESCRIPTION = """Find cars and pedestrians in a recording, and look at them.

  detect_gen1.py drive_td.dat --video drive.mp4
        boxes on the events, found by the network that comes along
  detect_gen1.py drive_td.dat --video drive.gif --from-s 10 --to-s 14 --speed 0.5
        four seconds at half their pace for a web page
  detect_gen1.py drive.raw --checkpoint runs/mine --every-ms 100 --score 0.5
        your own network, ten times a second, only boxes it is surer of
  detect_gen1.py recordings/test --video clips --jsonl boxes.jsonl
        all recordings of a directory
  detect_gen1.py drive_td.dat --live
        as a camera would send it: how far do boxes lag behind?

Boxes always go to OUTPUT/NAME_bbox.npy, which gen1.labels.read_boxes reads."""


@dataclass(frozen=True)
class RunConfig:
    """Detect on one recording or a directory of them.

    Args:
        recording: NAME_td.dat, a Prophesee RAW file (EVT 2, 2.1, 3), or a directory of them.
        checkpoint: Checkpoint file, or a run directory (its best.pt is used).
        output: Directory for NAME_bbox.npy, boxes as Prophesee stores them.
        video: File to draw, .mp4 or .gif; for a directory of recordings a directory of .mp4.
        jsonl: File to write with a line of JSON per window.
        every_ms: A window ends every so many ms. Windows are as long as those of the training.
        from_s: Where to begin, in s of the recording's clock.
        to_s: Where to end, in s of the recording's clock; its end if not given.
        speed: Pace of the video and of `--live`; 1 is real time, 0.25 four times slower.
        score: Least score of a box, in [0, 1].
        show_ms: A picture shows the events of so many ms before it.
        energy_windows: Windows whose energy is counted, spread evenly; 0 counts none.
        device: "auto", "cpu" or "cuda".
        height: Sensor height in px where a .dat names none, else the training's; of a RAW file, in
            place of the header's, else 720.
        width: Sensor width in px where the recording names none; as height, 1280.
        carry_state: Keep membranes from window to window; `--every-ms` must be the window's length.
            Their energy is not counted.
        live: Replay the recording at its own pace; windows that come too late are dropped.
    """

    recording: Path
    checkpoint: Path = SAMPLE_CHECKPOINT
    output: Path = Path("detections")
    video: Path | None = None
    jsonl: Path | None = None
    every_ms: float = 50.0
    from_s: float = 0.0
    to_s: float | None = None
    speed: float = 1.0
    score: float = 0.3
    show_ms: float = 50.0
    energy_windows: int = 4
    device: str = "auto"
    height: int | None = None
    width: int | None = None
    carry_state: bool = False
    live: bool = False

    def __post_init__(self) -> None:
        for name, least in (("every_ms", 0.001), ("show_ms", 0.001), ("speed", 1e-6)):
            if not least <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name):g}, expected more than 0")
        if not 0 <= self.score <= 1:
            raise ValueError(f"score is {self.score:g}, expected 0 to 1")
        if self.to_s is not None and not self.from_s < self.to_s:
            raise ValueError(f"to_s is {self.to_s:g}, expected more than from_s, {self.from_s:g}")
        if self.live and (self.video or self.from_s or self.to_s is not None):
            found = "live was given with video, from_s or to_s"
            raise ValueError(f"{found}, expected live alone: it replays all and draws nothing")
        for name, fewest in (("energy_windows", 0), ("height", 1), ("width", 1)):
            value = getattr(self, name)
            if value is not None and value < fewest:
                raise ValueError(f"{name} is {value}, expected {fewest} or more")

    @property
    def every_us(self) -> int:
        return round(1000 * self.every_ms)


@dataclass(frozen=True)
class Network:
    """What a checkpoint holds: the model, the histograms it was trained on, its kind of input."""

    model: DetectorNetwork
    settings: HistogramSettings
    input: str


def load_network(path: Path) -> Network:
    """The network of a checkpoint or run directory; ValueError says what to give instead."""
    if path == SAMPLE_CHECKPOINT and not path.exists():
        expected = "expected `--checkpoint` with a run directory or a checkpoint"
        raise ValueError(f"{path}: the sample checkpoint is not there, {expected}")
    path = checkpoint_file(path)
    model, checkpoint = load_model(path)
    return Network(model, *input_of(checkpoint.meta, path))


def time_range_us(config: RunConfig, reader: DatReader) -> tuple[int, int]:
    """Start and end in us: windows end every every_us after the start, up to the end."""
    if not reader.n_events:
        raise ValueError("holds no events, expected a recording")
    first_us = reader.order.first_us
    start_us = max(round(1e6 * config.from_s), first_us)
    end_us = reader.order.last_us + 1
    if config.to_s is not None:
        end_us = min(end_us, round(1e6 * config.to_s))
    if end_us - start_us < config.every_us:
        found = f"lasts from {first_us / 1e6:g} to {(reader.order.last_us + 1) / 1e6:g} s"
        expected = f"expected {config.every_ms:g} ms or more between from_s and to_s"
        raise ValueError(f"{found}, {expected}")
    check_silence(reader, start_us, end_us)
    return start_us, end_us


def sensor_of(config: RunConfig, network: Network, reader: DatReader) -> tuple[int, int]:
    """Height and width in px: the recording's, else those given, else the training's."""
    trained = network.settings
    height = reader.height or config.height or trained.height
    return height, reader.width or config.width or trained.width


def detect(config: RunConfig, network: Network, recording: Recording, reader: DatReader) -> Found:
    """Boxes of all windows of a recording. Says on stderr what is odd about it."""
    start_us, end_us = time_range_us(config, reader)
    sensor_hw = sensor_of(config, network, reader)
    hot_hz = network.settings.hot_pixel_hz
    hot = hot_pixels(reader, *sensor_hw, hot_hz) if hot_hz else None
    detector = Detector(
        network.model,
        network.settings,
        input=network.input,
        every_us=config.every_us,
        sensor_hw=sensor_hw,
        start_us=start_us,
        hot=hot,
        score_threshold=config.score,
        device=config.device,
        carry_state=config.carry_state,
        count_spikes=not config.live,
    )
    for oddity in oddities(reader, detector.settings, network.settings):
        print(f"note: {recording.name}: {oddity}", file=sys.stderr)
    n_windows = (end_us - start_us) // config.every_us
    energy_mj = None
    if config.energy_windows and not config.carry_state:
        ends_us = start_us + config.every_us * np.arange(1, n_windows + 1)
        some_us = ends_us[:: -(-n_windows // config.energy_windows)]
        energy_mj = energy_per_window(network.model, detector, reader, some_us, hot)
    n_events = reader.index_at(end_us) - reader.index_at(start_us)
    detector.warm_up()
    started = time.perf_counter()
    bar = tqdm(total=n_windows, desc=recording.name, unit="window", leave=False, disable=None)
    with bar:
        windows, report = watch(config, detector, reader, (start_us, end_us), bar.update)
    seconds = time.perf_counter() - started
    return Found(windows, sensor_hw, n_events, end_us - start_us, seconds, energy_mj, report)


def watch(
    config: RunConfig,
    detector: Detector,
    reader: DatReader,
    range_us: tuple[int, int],
    done: Callable[[], object],
) -> tuple[list[Detections], LiveReport | None]:
    """What is found in all windows, or at the recording's own pace; `done` is called after each."""
    windows: list[Detections] = []

    def show(found: Detections) -> None:
        windows.append(found)
        done()

    if config.live:
        return windows, replay(detector, reader, config.speed, show=show)
    for found in detect_range(detector, reader, *range_us):
        show(found)
    return windows, None


def json_line(name: str, found: Detections) -> bytes:
    """One window as a line of JSON; boxes in sensor px."""
    boxes = [
        {
            **{side: round(float(box[side]), 2) for side in "xywh"},
            "class": class_name(int(box["class_id"])),
            "score": round(float(box["class_confidence"]), 4),
        }
        for box in found.boxes
    ]
    rate = None if found.firing_rate is None else round(found.firing_rate, 6)
    line = {"recording": name, "t_us": found.end_us, "boxes": boxes}
    line |= {"n_events": found.n_events, "firing_rate": rate}
    return json.dumps(line).encode() + b"\n"


def draw(
    config: RunConfig,
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


def targets(config: RunConfig, recording: Recording) -> tuple[Path, Path | None]:
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
    config: RunConfig, network: Network, recording: Recording, lines: BinaryIO | None
) -> None:
    """Detect on one recording, write what was asked for and print a summary."""
    boxes_path, video = targets(config, recording)
    labels = read_boxes(recording.boxes) if video and recording.boxes else np.empty(0, BOX)
    with open_recording(recording.dat, config.height, config.width) as reader:
        if video:
            start_us, end_us = time_range_us(config, reader)
            step, _ = pace(video, config.every_us, config.speed)
            check_length(video, -(-((end_us - start_us) // config.every_us) // step))
        found = detect(config, network, recording, reader)
        write_boxes(boxes_path, found.boxes)
        name = f"{recording.split}/{recording.name}".lstrip("/")
        if lines:
            lines.writelines(json_line(name, window) for window in found.windows)
        print(f"{name}: {found.summary()}")
        print(f"  boxes: {boxes_path}")
        if found.live:
            print("  " + found.live.summary().replace("\n", "\n  "))
        if video:
            count = draw(config, recording, labels, reader, found, video)
            print(f"  video: {video}, {count} pictures")


def run(config: RunConfig) -> bool:
    """Detect on every recording; what is wrong with one is said and does not stop the others.

    Returns whether all went well. Raises ValueError for what is wrong with all of them.
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
    network, well = load_network(config.checkpoint), True
    with atomic_write(config.jsonl) if config.jsonl else nullcontext() as lines:
        for recording in recordings:
            try:
                process(config, network, recording, lines)
            except (ValueError, OSError) as error:
                what = f"{recording.name}: {error}"
                if len(recordings) == 1:
                    raise ValueError(what) from None
                print(f"error: {what}", file=sys.stderr)
                well = False
    if config.jsonl:
        print(f"lines: {config.jsonl}")
    return well


class Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of the description."""


def command_line() -> ArgumentParser:
    parser = ArgumentParser(prog="detect_gen1.py", description=DESCRIPTION, formatter_class=Help)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with these settings")
    parser.add_argument("recording", type=Path, help="NAME_td.dat, RAW file, or directory of them")
    parser.add_class_arguments(RunConfig, skip={"recording", "live", "carry_state"})
    parser.add_argument("--live", action="store_true", help="replay as a camera would send it")
    carry = "keep membranes from window to window; needs --every-ms of a window's length"
    parser.add_argument("--carry_state", action="store_true", help=carry)
    return parser


def underscored(argument: str) -> str:
    """--every-ms -> --every_ms: either may be given."""
    return re.sub(r"^--[^=]+", lambda name: "--" + name[0][2:].replace("-", "_"), argument)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    parser = command_line()
    arguments = parser.parse_args([underscored(argument) for argument in argv])
    arguments.pop("config", None)
    try:
        return 0 if run(RunConfig(**vars(parser.instantiate(arguments)))) else 1
    except Exception as error:
        return fail(error, memory="give a shorter time, --from-s and --to-s")
    except KeyboardInterrupt:
        print("interrupted: what was not complete is not there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    leave(main())
