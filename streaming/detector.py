"""Events in any chunks -> boxes, window by window."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.spikeyolo import SpikeYOLO
from preprocessing.histogram import HistogramSettings
from streaming.windower import Window


@dataclass(frozen=True)
class Detections:
    """What was found in the window [start_us, end_us) of n_events.

    boxes: BOX [n] in sensor px, t = end_us, best first. forward_ms: the network alone;
    decode_ms: from its maps to boxes. spikes (all neurons, all T steps) and firing_rate (their
    share of the most possible, D per neuron and step) are None unless spikes are counted.
    """

    start_us: int
    end_us: int
    n_events: int
    boxes: np.ndarray
    forward_ms: float
    decode_ms: float
    spikes: int | None = None
    firing_rate: float | None = None


class Detector:
    """The deployed network on sliding windows of a stream.

    Windows [t - window_us, t) at multiples of every_us, boxes at t: as eval_gen1.py on a cache
    with `--every-ms`. settings: histograms the model was trained on; sensor_hw: the stream's
    sensor in px (None: that of settings). count_spikes costs a pass over all spikes.
    """

    def __init__(
        self,
        model: SpikeYOLO,
        settings: HistogramSettings,
        *,
        input: str = "histogram",
        every_us: int = 50_000,
        sensor_hw: tuple[int, int] | None = None,
        start_us: int | None = None,
        hot: np.ndarray | None = None,
        score_threshold: float = 0.3,
        iou_threshold: float = 0.7,
        max_detections: int = 300,
        device: str = "auto",
        carry_state: bool = False,
        count_spikes: bool = False,
    ) -> None:
        raise NotImplementedError

    @classmethod
    def load(cls, checkpoint: Path, *, every_ms: float = 50.0, **options: object) -> "Detector":
        """The network of a checkpoint or run directory (its best.pt); options: of Detector."""
        raise NotImplementedError

    def feed(self, events: np.ndarray) -> list[Detections]:
        """One entry per window that these events (t in us, x, y, p; any number) complete."""
        return list(self.detections(events))

    def detections(self, events: np.ndarray) -> Iterator[Detections]:
        """feed, one window in memory at a time; take all of them before the next call."""
        raise NotImplementedError

    def advance(self, t_us: int) -> list[Detections]:
        """A heartbeat: every event before t_us has been fed."""
        raise NotImplementedError

    def flush(self) -> list[Detections]:
        """The recording is over: windows that end by one us past the newest event."""
        raise NotImplementedError

    def detect(self, window: Window) -> Detections:
        """Boxes of one window; feed does this for every one."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget events, membranes and counters, as for another recording."""
        raise NotImplementedError
