"""A whole recording through a detector, and what is odd about it."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from gen1.dat import DatReader
from gen1.recordings import Recording
from gen1.spec import BOX
from models.detector import DetectorNetwork
from models.energy import measure_energy
from models.memory.carried import UNUSED_MEMORY, has_memory
from preprocessing.denoise import hot_pixels
from preprocessing.histogram import HistogramSettings, window_histogram
from preprocessing.inputs import network_frames, network_input
from streaming.detector import Detections, Detector, Network
from streaming.live import LiveReport, packets, replay
from streaming.settings import StreamConfig
from streaming.windower import MAX_GAP_US

CHUNK_US = 100_000
SILENCE_US = MAX_GAP_US // 2  # a longer gap than MAX_GAP_US holds a whole one, wherever it begins


@dataclass(frozen=True)
class Found:
    """What one recording came to. seconds: of detecting; covered_us: of the recording."""

    windows: list[Detections]
    sensor_hw: tuple[int, int]
    n_events: int
    covered_us: int
    seconds: float
    energy_mj: float | None
    live: LiveReport | None

    @property
    def boxes(self) -> np.ndarray:
        """BOX [n], ordered by time."""
        return np.concatenate([np.empty(0, BOX), *(window.boxes for window in self.windows)])

    @property
    def firing_rate(self) -> float | None:
        """Mean over the windows; None where spikes were not counted."""
        rates = [w.firing_rate for w in self.windows if w.firing_rate is not None]
        return float(np.mean(rates)) if rates else None

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{len(self.windows)} windows", f"{len(self.boxes)} detections"]
        if self.live is None:
            parts += [
                f"{self.n_events / 1e6:.3f} M events",
                f"{self.n_events / 1e6 / self.seconds:.3f} M events/s",
                f"{self.covered_us / 1e6 / self.seconds:.2f} x real time",
            ]
        if self.firing_rate is not None:
            parts.append(f"firing rate {self.firing_rate:.1%}")
        if self.energy_mj is not None:
            parts.append(f"{self.energy_mj:.3f} mJ per window")
        return ", ".join(parts)


def check_silence(reader: DatReader, start_us: int, end_us: int) -> None:
    """Refuse a range of a recording with a gap that no Windower takes: its times are torn."""
    for from_us in range(start_us, end_us - SILENCE_US + 1, SILENCE_US):
        if reader.index_at(from_us) == reader.index_at(from_us + SILENCE_US):
            found = f"holds no events from {from_us / 1e6:g} to {(from_us + SILENCE_US) / 1e6:g} s"
            raise ValueError(f"{found}, expected a range of time without such a gap")


def time_range_us(config: StreamConfig, reader: DatReader) -> tuple[int, int]:
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


def detect(
    config: StreamConfig,
    network: Network,
    recording: Recording,
    reader: DatReader,
    range_us: tuple[int, int],
) -> Found:
    """Boxes of all windows of a recording in [start_us, end_us), see time_range_us.

    Says on stderr what is odd about it.
    """
    start_us, end_us = range_us
    trained = network.settings
    height = reader.height or config.height or trained.height
    sensor_hw = height, reader.width or config.width or trained.width
    hot_hz = trained.hot_pixel_hz
    hot = hot_pixels(reader, *sensor_hw, hot_hz) if hot_hz else None
    detector = Detector(
        network.model,
        trained,
        input=network.input,
        every_us=config.every_us,
        sensor_hw=sensor_hw,
        start_us=start_us,
        hot=hot,
        score_threshold=config.score,
        device=config.device,
        carry_state=config.carry_state,
        count_spikes=not config.live and config.engine == "torch",
        engine=config.engine,
    )
    if has_memory(network.model.config) and not config.carry_state:
        print(f"note: {config.checkpoint}: {UNUSED_MEMORY}", file=sys.stderr)
    for oddity in oddities(reader, detector.settings, trained):
        print(f"note: {recording.name}: {oddity}", file=sys.stderr)
    n_windows = (end_us - start_us) // config.every_us
    energy_mj = None
    if config.energy_windows and config.engine == "torch" and not config.carry_state:
        ends_us = start_us + config.every_us * np.arange(1, n_windows + 1)
        some_us = ends_us[:: -(-n_windows // config.energy_windows)]
        energy_mj = energy_per_window(network.model, detector, reader, some_us, hot)
    n_events = reader.index_at(end_us) - reader.index_at(start_us)
    detector.warm_up()
    started = time.perf_counter()
    bar = tqdm(total=n_windows, desc=recording.name, unit="window", leave=False, disable=None)
    windows: list[Detections] = []
    report = None

    def show(found: Detections) -> None:
        windows.append(found)
        bar.update()

    with bar:
        if config.live:
            report = replay(detector, reader, config.speed, show=show)
        else:
            for found in detect_range(detector, reader, *range_us):
                show(found)
    seconds = time.perf_counter() - started
    return Found(windows, sensor_hw, n_events, end_us - start_us, seconds, energy_mj, report)


def detect_range(
    detector: Detector, reader: DatReader, start_us: int, end_us: int
) -> Iterator[Detections]:
    """The windows that end in (start_us, end_us]; the first ones see what was before start_us.

    The detector's start_us must be the same.
    """
    settings = detector.settings
    before_us = settings.window_us + settings.denoise_us
    sent = packets(reader, CHUNK_US, (start_us - before_us, end_us))
    return map(detector.detect, detector.windower.follow(sent))


def energy_per_window(
    model: DetectorNetwork,
    detector: Detector,
    reader: DatReader,
    ends_us: np.ndarray,
    hot: np.ndarray | None = None,
) -> float:
    """Mean energy in mJ of the windows of a detector that end at ends_us, see models.energy.

    model, hot: those of the detector, the model on the CPU.
    """
    settings = detector.settings

    def frames() -> Iterator[torch.Tensor]:
        for end_us in ends_us:
            start_us = int(end_us) - settings.window_us
            histogram, _ = window_histogram(reader, start_us, settings, hot)
            fitted = network_frames(histogram, detector.geometry, detector.input)
            yield network_input(torch.from_numpy(fitted).unsqueeze(1))

    return measure_energy(model, frames()).snn_mj


def oddities(
    reader: DatReader, settings: HistogramSettings, trained: HistogramSettings
) -> Iterator[str]:
    """A sentence for everything a user should know about a recording, its name not included.

    settings: as Detector.settings for its sensor; trained: of the network.
    """
    order = reader.order
    if reader.trailing_bytes:
        yield f"ends inside a record, the last {reader.trailing_bytes} bytes are dropped"
    if order.moved:
        yield f"{order.moved} events came after later ones, they are put in their place"
    if order.left_out:
        yield f"{order.left_out} events at impossible times are left out"
    if order.wraps:
        yield f"its clock wrapped around {order.wraps} times, time goes on"
    if order.out_of_frame:
        yield f"{order.out_of_frame} events beyond its sensor are not looked at"
    size = f"{settings.height}x{settings.width} px"
    if reader.height is None or reader.width is None:
        yield f"names no sensor size, {size} are taken"
    if (settings.height, settings.width) != (trained.height, trained.width):
        cells = "x".join(2 * [f"{settings.downsample}"])
        found = f"its sensor has {size}, that of the training {trained.height}x{trained.width}"
        yield f"{found}: the network sees cells of {cells} px, objects may look larger or smaller"
    if reader.duration_us < settings.window_us:
        window_s = settings.window_us / 1e6
        yield f"is shorter than a window of {window_s:g} s, what was before it counts as empty"
