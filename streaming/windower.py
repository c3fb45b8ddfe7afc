"""Events in any chunks -> histograms of sliding windows, in memory that one window bounds.

What is kept are the events of the open window, 16 bytes each: memory follows the fullest window,
never the length of the stream, for any window, stride and number of bins.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from gen1.clock import FEW, LATE_US, NEAR_US, is_stray
from gen1.dat import ADDRESS_BITS, MAX_SIDE
from preprocessing.denoise import NEVER_US, kept_pixels
from preprocessing.histogram import EventTally, HistogramSettings, bin_edges, fill_frames

#: A step of more than this, 10 minutes, is no silence and no delay but a clock that was set.
MAX_GAP_US = 600_000_000
EVENTS_AT_ONCE = 1 << 16
RECORD_VERSION = 2
LEFT_OUT = np.uint64(1 << 63)  # marks an event that is noise; no address has this bit


@dataclass(frozen=True)
class Window:
    """Events of [start_us, end_us): histogram uint8 settings.frame_shape, and where they went.

    Windows without events share one histogram, which cannot be written to.
    """

    start_us: int
    end_us: int
    histogram: np.ndarray
    tally: EventTally

    @property
    def n_events(self) -> int:
        """Events in the window, those out of frame too."""
        return self.tally.events


class Windower:
    """Windows [t - window_us, t) at t = start_us + every_us, start_us + 2 every_us, ...

    settings: what a histogram is, its height and width those of the sensor; a start_us of None is
    the first event. A window is complete when an event at or after its end arrives, or a heartbeat,
    `windows_until`. An event out of order counts in the windows still open; one in none is dropped
    and counted in `late_events`. A step ahead of over NEAR_US is believed once FEW more events
    follow it: up to FEW that the others do not follow are dropped and counted in `left_out`.
    hot: bool [height, width], pixels to ignore. Raises ValueError for hot_pixel_hz without `hot`.
    """

    def __init__(
        self,
        settings: HistogramSettings,
        every_us: int,
        start_us: int | None = None,
        hot: np.ndarray | None = None,
    ) -> None:
        if every_us < 1:
            raise ValueError(f"every_us is {every_us}, expected 1 us or more")
        if settings.hot_pixel_hz and hot is None:
            found = f"hot_pixel_hz is {settings.hot_pixel_hz}, which needs a whole recording"
            raise ValueError(f"{found}, expected the mask of preprocessing.denoise.hot_pixels")
        sensor_hw = settings.height, settings.width
        if hot is not None and hot.shape != sensor_hw:
            raise ValueError(f"hot pixels of {hot.shape} px were given, expected {sensor_hw}")
        self.settings, self.every_us, self.start_us = settings, every_us, start_us
        self._filters = hot is not None or settings.denoise_us > 0
        self._hot = np.zeros(sensor_hw, bool) if hot is None else hot
        self._nothing = np.zeros(settings.frame_shape, np.uint8)
        self._nothing.setflags(write=False)
        self.reset()

    def reset(self) -> None:
        """Forget everything, as for another recording or after the clock was set."""
        self.late_events = self.left_out = 0
        self._first_us: int | None = None
        self._line_us, self._low, self._passed = int(NEVER_US), 0, 0
        self._held: list[tuple[int, np.uint64]] = []
        self._end_us = None if self.start_us is None else self.start_us + self.every_us
        self._newest_us = int(NEVER_US)
        self._t_us, self._packed = np.empty(0, np.int64), np.empty(0, np.uint64)
        self._count, self._in_order = 0, True
        border = 2  # saves the edge cases of the noise filter
        height, width = self._hot.shape
        self._fired_us = np.full((height + border, width + border), NEVER_US)

    def follow(self, packets: Iterable[tuple[int, np.ndarray]]) -> Iterator[Window]:
        """The windows of a whole stream of (end_us, all events since the packet before)."""
        for end_us, events in packets:
            yield from self.windows(events)
            yield from self.windows_until(end_us)

    def windows(self, events: np.ndarray) -> Iterator[Window]:
        """The windows that these events, structured (t in us, x, y, p), complete.

        One at a time: take all before the next call. Raises ValueError for other fields or
        polarities, and for a step of over 10 minutes either way: reset() goes on at the new time.
        """
        for first in range(0, len(events), EVENTS_AT_ONCE):
            for t_us, packed in self._believed(*self._read(events[first : first + EVENTS_AT_ONCE])):
                yield from self._windows(t_us, packed)

    def windows_until(self, t_us: int) -> Iterator[Window]:
        """A heartbeat, every event before t_us has been given: the windows this completes."""
        yield from self._release([event for event in self._held if event[0] < t_us])
        if self._end_us is None:
            return
        self._line_us = max(self._line_us, t_us - 1)
        self._newest_us = max(self._newest_us, t_us - 1)
        yield from self._closed_by(t_us)

    def last_windows(self) -> Iterator[Window]:
        """The recording is over: the windows that end by one us past the newest event."""
        if self._first_us is not None:
            longest_us = max(LATE_US, self._line_us - self._first_us)
            yield from self._release([e for e in self._held if e[0] - self._line_us <= longest_us])
            self.left_out += len(self._held)
            self._held = []
        if self._newest_us > NEVER_US:
            yield from self.windows_until(self._newest_us + 1)

    def _windows(self, t_us: np.ndarray, packed: np.ndarray) -> Iterator[Window]:
        if self._end_us is None and len(t_us):
            self._end_us = int(t_us[0]) + self.every_us
        if self._filters:
            packed = self._filtered(t_us, packed)
        newest_us = np.maximum.accumulate(np.maximum(t_us, self._newest_us))
        first = 0
        while first < len(t_us):
            assert self._end_us is not None
            last = int(np.searchsorted(newest_us, self._end_us))
            part = slice(first, last)
            self._keep(t_us[part], packed[part], newest_us[part])
            if last < len(t_us):
                yield from self._closed_by(int(newest_us[last]))
            first = last

    def _read(self, events: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Times int64 [n] and addresses uint64 [n] as in the high half of DatReader.packed."""
        for name in "txyp":
            if name not in (events.dtype.names or ()) or events.dtype[name].kind not in "iub":
                raise ValueError(f"events of {events.dtype}, expected integers t, x, y, p")
        t_us, x, y, p = (events[name].astype(np.int64) for name in "txyp")
        if p.min() < 0 or p.max() > 1:
            raise ValueError(f"events have p from {p.min()} to {p.max()}, expected 0 or 1")
        inside = (x >= 0) & (x < self.settings.width) & (y >= 0) & (y < self.settings.height)
        x, y = (np.where(inside, side, MAX_SIDE - 1) for side in (x, y))
        y_bit, p_bit = ADDRESS_BITS[RECORD_VERSION]
        packed = (x | y << y_bit | p << p_bit).astype(np.uint64) << np.uint64(32)
        return t_us, packed

    def _believed(
        self, t_us: np.ndarray, packed: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """These events without those at impossible times, in pieces."""
        first = 0
        if self._first_us is None and len(t_us):
            low_half = (t_us & 0xFFFFFFFF).astype(np.uint64)
            while first < min(FEW, len(t_us) - FEW) and (
                is_stray(low_half[first:], 0) or abs(t_us[first + 1] - t_us[first]) > MAX_GAP_US
            ):
                first += 1
            self.left_out += first
            self._first_us = self._line_us = int(t_us[first])
        steps_us = np.diff(t_us, prepend=self._line_us)
        if len(t_us) and not self._held and 0 <= steps_us.min() <= steps_us.max() <= NEAR_US:
            self._line_us, self._low = int(t_us[-1]), 0  # the usual case, and the fast one
            yield t_us, packed
            return
        while first < len(t_us):
            line_us = np.maximum.accumulate(np.append(self._line_us, t_us[first:]))
            step_us = t_us[first:] - line_us[:-1]
            odd = (step_us > NEAR_US) | (step_us < -MAX_GAP_US)
            plain = 0 if self._held else int(np.append(odd, True).argmax())
            if plain:
                self._line_us, self._low = int(line_us[plain]), 0
                yield t_us[first : first + plain], packed[first : first + plain]
                first += plain
            if first < len(t_us):
                yield from self._weigh(int(t_us[first]), packed[first])
                first += 1

    def _weigh(self, t_us: int, row: np.uint64) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """One event where times step: what is believed because of it."""
        if t_us > self._line_us + NEAR_US:
            self._passed *= bool(self._held)
            self._held.append((t_us, row))
            if len(self._held) <= FEW:
                return
            self._line_us = min(self._held)[0]
        elif t_us < self._line_us - MAX_GAP_US:
            self._low += 1
            self.left_out += 1
            if self._low > FEW:
                raise _clock_was_set(self._line_us, t_us)
            return
        else:
            self._low, self._passed = 0, self._passed + 1
            self._line_us = max(self._line_us, t_us)
            yield np.array([t_us]), np.array([row])
            if self._passed > FEW:
                self.left_out += len(self._held)
                self._held = []
        near = [event for event in self._held if event[0] <= self._line_us + NEAR_US]
        if near or not self._held:
            held = [event for event in self._held if event not in near]
            self._held, self._passed = [], 0
            for event in [*near, *held]:
                yield from self._weigh(*event)

    def _release(self, events: list[tuple[int, np.uint64]]) -> Iterator[Window]:
        """The windows that held events complete which are believed after all."""
        self._held = [event for event in self._held if event not in events]
        for t_us, row in sorted(events):
            self._line_us = max(self._line_us, t_us)
            yield from self._windows(np.array([t_us]), np.array([row]))

    def _filtered(self, t_us: np.ndarray, packed: np.ndarray) -> np.ndarray:
        """The records, those that are noise marked LEFT_OUT."""
        y_bit, p_bit = ADDRESS_BITS[RECORD_VERSION]
        address = (packed >> np.uint64(32)).astype(np.int64)
        x, y = address & (1 << y_bit) - 1, address >> y_bit & (1 << p_bit - y_bit) - 1
        kept = kept_pixels(t_us, x, y, self.settings.denoise_us, self._hot, self._fired_us)
        return np.where(kept, packed, packed | LEFT_OUT)

    def _keep(self, t_us: np.ndarray, packed: np.ndarray, newest_us: np.ndarray) -> None:
        """Take in events before the end of the open window; newest_us: up to each of them."""
        if not len(t_us):
            return
        assert self._end_us is not None
        self._newest_us = int(newest_us[-1])
        in_window = t_us >= self._end_us - self.settings.window_us
        in_order = t_us == newest_us
        self.late_events += int(np.count_nonzero(~in_window & ~in_order))
        self._in_order &= bool((in_order | ~in_window).all())
        t_us, packed = t_us[in_window], packed[in_window]
        count = self._count + len(t_us)
        if count > len(self._t_us):
            more = max(count, 2 * len(self._t_us)) - self._count
            self._t_us = np.append(self._t_us[: self._count], np.empty(more, np.int64))
            self._packed = np.append(self._packed[: self._count], np.empty(more, np.uint64))
        self._t_us[self._count : count] = t_us
        self._packed[self._count : count] = packed
        self._count = count

    def _closed_by(self, t_us: int) -> Iterator[Window]:
        assert self._end_us is not None
        if t_us - self._end_us > MAX_GAP_US:
            raise _clock_was_set(self._end_us, t_us)
        while self._end_us <= t_us:
            yield self._close()

    def _close(self) -> Window:
        """The open window; what the next one does not share with it is forgotten."""
        assert self._end_us is not None
        end_us, start_us = self._end_us, self._end_us - self.settings.window_us
        t_us, packed = self._t_us[: self._count], self._packed[: self._count]
        if not self._in_order:
            order = t_us.argsort(kind="stable")
            t_us[:], packed[:] = t_us[order], packed[order]
            self._in_order = True
        histogram, tally = self._histogram(start_us, t_us, packed)
        self._end_us += self.every_us
        first = int(np.searchsorted(t_us, self._end_us - self.settings.window_us))
        self._count -= first
        self._t_us[: self._count], self._packed[: self._count] = t_us[first:], packed[first:]
        return Window(start_us, end_us, histogram, tally)

    def _histogram(
        self, start_us: int, t_us: np.ndarray, packed: np.ndarray
    ) -> tuple[np.ndarray, EventTally]:
        """The frames of the window's events in order, by the kernels that fill caches."""
        n_events = len(packed)
        if not n_events:
            return self._nothing, EventTally()
        settings = self.settings
        edges = np.searchsorted(t_us, bin_edges(start_us, settings.window_us, settings.time_steps))
        if self._filters:
            kept = packed < LEFT_OUT
            packed, edges = packed[kept], np.append(0, np.cumsum(kept))[edges]
        frames = np.empty(settings.frame_shape, np.uint8)
        address_bits = ADDRESS_BITS[RECORD_VERSION]
        counted, out_of_frame = fill_frames(frames, packed, edges, settings, address_bits)
        clipped = len(packed) - counted - out_of_frame
        return frames, EventTally(counted, clipped, out_of_frame, n_events - len(packed))


def _clock_was_set(from_us: int, to_us: int) -> ValueError:
    found = f"time went from {from_us} us to {to_us} us"
    hint = "reset() goes on at the new time"
    return ValueError(f"{found}, expected a step of {MAX_GAP_US} us at most; {hint}")
