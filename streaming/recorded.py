"""A whole recording through a detector, and what is odd about it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from gen1.dat import DatReader
from gen1.spec import BOX
from models.detector import DetectorNetwork
from models.energy import measure_energy
from preprocessing.histogram import HistogramSettings, window_histogram
from preprocessing.inputs import network_frames, network_input
from streaming.detector import Detections, Detector
from streaming.live import LiveReport, packets
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
