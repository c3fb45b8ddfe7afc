"""The live source, without sleeping: the clock of these tests jumps to where it is waited for."""

import threading

import numpy as np
import pytest

from gen1.dat import DatReader, write_dat
from gen1.spec import EVENT
from preprocessing.histogram import HistogramSettings
from streaming.detector import Detections
from streaming.live import LiveReport, Newest, WallClock, packets, replay
from streaming.windower import Window, Windower

SETTINGS = HistogramSettings(20_000, 2, height=4, width=4)
FIRST_US = 7_000


class JumpingClock:
    def __init__(self):
        self.seconds = 100.0

    def now(self):
        return self.seconds

    def wait(self, until, _stop):
        self.seconds = max(self.seconds, until)


class HeldClock(JumpingClock):
    """Lets the source go past `hold_s` only when the detector is busy."""

    def __init__(self, hold_s):
        super().__init__()
        self.hold, self.busy = self.seconds + hold_s, threading.Event()

    def wait(self, until, stop):
        if until > self.hold:
            assert self.busy.wait(10)
        super().wait(until, stop)


class Finder:
    """Stands in for a detector: `work` is what it does with each window."""

    late_events = 0

    def __init__(self, work=lambda window: None):
        self.windower, self.work = Windower(SETTINGS, 20_000, start_us=0), work
        self.warm = False

    def warm_up(self):
        self.warm = True

    def reset(self):
        assert self.warm
        self.windower.reset()

    def detect(self, window):
        self.work(window)
        return Detections(window.start_us, window.end_us, window.n_events, np.zeros(0), 0.0, 0.0)


@pytest.fixture
def reader(tmp_path):
    """200 events, one every 1 ms from FIRST_US on: windows end at 20, 40, ..., 200 ms."""
    events = np.zeros(200, EVENT)
    events["t"] = FIRST_US + 1000 * np.arange(200)
    write_dat(tmp_path / "a.dat", events, 4, 4)
    return DatReader(tmp_path / "a.dat")


def test_packets_cut_the_recording(reader):
    sent = list(packets(reader, 30_000))
    assert [packet.end_us for packet in sent] == [FIRST_US + 30_000 * i for i in range(1, 8)]
    np.testing.assert_array_equal(np.concatenate([p.events for p in sent]), reader.read())
    assert all((p.events["t"] < p.end_us).all() for p in sent)


def test_a_fast_detector_sees_every_window_at_its_pace(reader):
    clock, taken = JumpingClock(), threading.Semaphore(0)

    class InStep(JumpingClock):
        """The source waits for the boxes of every window that it has sent."""

        sent = 0

        def wait(self, until, stop):
            while finder.windower._end_us and self.sent < finder.windower._end_us // 20_000 - 1:
                assert taken.acquire(timeout=10)
                self.sent += 1
            super().wait(until, stop)

    clock, finder, shown = InStep(), Finder(), []

    def show(found):
        shown.append((found.end_us, found.n_events, clock.now()))
        taken.release()

    report = replay(finder, reader, speed=2.0, packet_us=10_000, show=show, clock=clock)
    assert [end_us for end_us, _, _ in shown] == list(range(20_000, 201_000, 20_000))
    assert [n for _, n, _ in shown] == [13, *[20] * 9]
    for end_us, _, seen in shown:  # windows end 3 ms into a packet of 10 ms: 7 ms early, at speed 2
        assert seen - 100 == pytest.approx((end_us + 7_000 - FIRST_US) / 2e6)
    np.testing.assert_allclose(report.latency_ms, 3.5)
    assert (report.windows, report.dropped, report.events) == (10, 0, 200)
    assert report.seconds == pytest.approx(0.1)
    assert report.events_per_s == pytest.approx(2000)


def test_windows_are_dropped_while_the_detector_is_busy_but_the_newest(reader):
    clock = HeldClock(0.023)  # from 7 ms to 30 ms: one window is complete
    source_ended = threading.Event()

    def work(window):
        clock.busy.set()
        if window.end_us == 20_000:  # busy until all the others are over
            (source,) = (t for t in threading.enumerate() if t.name == "live source")
            source.join(10)
            assert not source.is_alive()
            source_ended.set()

    shown = []
    report = replay(Finder(work), reader, show=lambda f: shown.append(f.end_us), clock=clock)
    assert source_ended.is_set()
    assert shown == [20_000, 200_000]
    assert (report.windows, report.dropped, report.events) == (10, 8, 200)
    assert report.latency_ms[0] == pytest.approx(200 + FIRST_US / 1e3 - 20)  # until its boxes
    assert "10 windows, 8 dropped" in report.summary()


def test_the_newest_window_waits_alone():
    newest = Newest()
    windows = [Window(0, t, np.zeros(0), None) for t in (1, 2, 3)]
    for window in windows:
        newest.put(window)
    assert newest.take() is windows[2]
    assert newest.dropped == 2
    newest.put(windows[0])
    newest.close()
    assert newest.take() is windows[0]
    assert newest.take() is newest.take() is None
    assert newest.dropped == 2


def test_an_error_of_the_source_is_raised_here_and_the_thread_ends(reader):
    for options in ({"packet_us": 0}, {"speed": 0.0}, {"speed": float("nan")}):
        with pytest.raises(ValueError, match="expected"):
            replay(Finder(), reader, clock=JumpingClock(), **options)
    assert not live_threads()


def live_threads():
    return [thread for thread in threading.enumerate() if thread.name == "live source"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_ctrl_c_ends_the_run_with_its_report(reader, error):
    def work(_window):
        raise error

    if error is RuntimeError:
        with pytest.raises(RuntimeError):
            replay(Finder(work), reader, speed=1e-3, packet_us=20_000, clock=slow_start())
    else:
        report = replay(Finder(work), reader, speed=1e-3, packet_us=20_000, clock=slow_start())
        assert report.interrupted
        assert len(report.latency_ms) == 0
        assert report.summary().endswith("interrupted")
    assert not live_threads()  # though its next packet is due in 20 s


def slow_start():
    """The first packet comes at once, the others when this machine's clock says so."""

    class Clock(WallClock):
        first = True

        def wait(self, until, stop):
            if self.first:
                self.first = False
            else:
                super().wait(until, stop)

    return Clock()


def test_a_recording_without_events_has_no_windows(tmp_path):
    write_dat(tmp_path / "none.dat", np.zeros(0, EVENT), 4, 4)
    report = replay(Finder(), DatReader(tmp_path / "none.dat"), clock=JumpingClock())
    assert (report.windows, report.events, report.events_per_s) == (0, 0, 0)
    assert np.isnan(report.percentiles()["p50"])


def test_percentiles_of_the_latency():
    report = LiveReport(np.arange(101.0), 3, 5_000_000, 7, 2.5, False)
    assert report.percentiles() == {"p50": 50, "p90": 90, "p99": 99, "max": 100}
    assert report.windows == 104
    assert report.summary() == (
        "latency in ms: p50 50.0, p90 90.0, p99 99.0, max 100.0\n"
        "104 windows, 3 dropped; 2.000 M events/s, 7 too late; 2.5 s"
    )
