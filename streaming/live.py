"""A recording replayed at its own pace, as a camera would send it, and how far boxes lag behind.

One thread sends packets and makes windows of them, the caller's finds boxes. Between them waits
the newest window alone: boxes of what has just happened are worth more than all boxes.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from gen1.dat import DatReader
from streaming.detector import Detections, Detector
from streaming.windower import Window, Windower


class Packet(NamedTuple):
    """What a camera sends at end_us: all events, EVENT [n], since its packet before."""

    end_us: int
    events: np.ndarray


class Clock(Protocol):
    """Seconds that pass; tests have one that does not sleep."""

    def now(self) -> float: ...

    def wait(self, until: float, stop: threading.Event) -> None:
        """Return at the time `until`, or when `stop` is set."""


class WallClock:
    """The time of this machine."""

    def now(self) -> float:
        return time.perf_counter()

    def wait(self, until: float, stop: threading.Event) -> None:
        stop.wait(max(0.0, until - self.now()))


@dataclass(frozen=True)
class LiveReport:
    """What a live run came to.

    latency_ms: from the moment the last event of a window was due to its boxes being there, one
    per window with boxes. `dropped` windows were overtaken by a newer one before their turn.
    """

    latency_ms: np.ndarray
    dropped: int
    events: int
    late_events: int
    seconds: float
    interrupted: bool

    @property
    def windows(self) -> int:
        """Windows that were complete."""
        return len(self.latency_ms) + self.dropped

    @property
    def events_per_s(self) -> float:
        """Events taken in per second of the run."""
        return self.events / self.seconds if self.seconds else 0.0

    def percentiles(self) -> dict[str, float]:
        """p50, p90, p99 and max of the latency in ms; NaN without any window."""
        shares = {"p50": 50, "p90": 90, "p99": 99, "max": 100}
        if not len(self.latency_ms):
            return dict.fromkeys(shares, float("nan"))
        return {name: float(np.percentile(self.latency_ms, q)) for name, q in shares.items()}

    def summary(self) -> str:
        """The report in two lines for people."""
        latency = ", ".join(f"{name} {ms:.1f}" for name, ms in self.percentiles().items())
        seen = f"{self.windows} windows, {self.dropped} dropped"
        rate = f"{self.events_per_s / 1e6:.3f} M events/s, {self.late_events} too late"
        end = ", interrupted" if self.interrupted else ""
        return f"latency in ms: {latency}\n{seen}; {rate}; {self.seconds:.1f} s{end}"


class Newest:
    """A place for one window between two threads: a newer one takes it, and that is counted."""

    def __init__(self) -> None:
        self.dropped = 0
        self._window: Window | None = None
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, window: Window) -> None:
        with self._changed:
            self.dropped += self._window is not None
            self._window = window
            self._changed.notify()

    def close(self, error: BaseException | None = None) -> None:
        """No window will follow; `error`: why not, for the one who takes."""
        with self._changed:
            self._closed, self._error = True, error
            self._changed.notify()

    def take(self) -> Window | None:
        """Wait for a window; None when none will follow. Raises the error of close()."""
        with self._changed:
            self._changed.wait_for(lambda: self._window is not None or self._closed)
            window, self._window = self._window, None
            if window is None and self._error is not None:
                raise self._error
            return window


class Source:
    """A thread that sends packets when they are due and puts the windows they complete.

    due(t_us): the second of `clock` at which an event at t_us happens.
    """

    def __init__(
        self,
        packets: Iterator[Packet],
        windower: Windower,
        due: Callable[[int], float],
        clock: Clock,
    ) -> None:
        self.newest, self.events = Newest(), 0
        self._packets, self._windower = packets, windower
        self._due, self._clock = due, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live source", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop sending; returns when the thread has ended."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        failed = None
        try:
            for window in self._windower.follow(self._when_due()):
                self.newest.put(window)
        except BaseException as error:
            failed = error
        self.newest.close(failed)

    def _when_due(self) -> Iterator[Packet]:
        for packet in self._packets:
            self._clock.wait(self._due(packet.end_us), self._stop)
            if self._stop.is_set():
                return
            self.events += len(packet.events)
            yield packet


def packets(
    reader: DatReader, packet_us: int = 10_000, range_us: tuple[int, int] | None = None
) -> Iterator[Packet]:
    """A recording in order of time, cut every packet_us: all of it, or [start, end) alone."""
    if packet_us < 1:
        raise ValueError(f"packet_us is {packet_us}, expected 1 us or more")
    order = reader.order
    first_us, last_us = range_us or (order.first_us, order.last_us + 1)
    for start_us in range(first_us, last_us, packet_us):
        end_us = start_us + packet_us
        if range_us:
            end_us = min(end_us, last_us)
        yield Packet(end_us, reader.window(start_us, end_us))


def replay(
    detector: Detector,
    reader: DatReader,
    speed: float = 1.0,
    packet_us: int = 10_000,
    show: Callable[[Detections], object] = lambda found: None,
    clock: Clock | None = None,
) -> LiveReport:
    """Send a recording at `speed` times its own pace to a detector, which is reset first.

    show is called with what was found in each window, in the caller's thread; its time counts for
    the next window. Windows that are overtaken while the detector is busy are dropped; carried
    membranes then miss them. Ctrl-C ends the run: its report is returned.
    """
    if not speed > 0:
        raise ValueError(f"speed is {speed}, expected a factor above 0")
    clock = clock or WallClock()
    detector.warm_up()
    detector.reset()
    first_us, started = reader.order.first_us, clock.now()

    def due(t_us: int) -> float:
        return started + (t_us - first_us) / (1e6 * speed)

    source = Source(packets(reader, packet_us), detector.windower, due, clock)
    latency_ms, interrupted = [], False
    try:
        while (window := source.newest.take()) is not None:
            found = detector.detect(window)
            latency_ms.append(1e3 * (clock.now() - due(window.end_us)))
            show(found)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        source.close()
    return LiveReport(
        latency_ms=np.array(latency_ms),
        dropped=source.newest.dropped,
        events=source.events,
        late_events=detector.late_events,
        seconds=clock.now() - started,
        interrupted=interrupted,
    )
