"""Events -> uint8 [T, 2, H, W], channel 0 = OFF and 1 = ON: slow truth, then fast kernels.

`count` holds the number of events per bin and pixel, 255 at most. `last_polarity` holds a
single 1 per bin and pixel, in the channel of the last event there.
"""

from dataclasses import dataclass

import numba
import numpy as np

from gen1.dat import ADDRESS_BITS, DatReader
from gen1.spec import HEIGHT, WIDTH
from preprocessing.windows import bin_edges

REPRESENTATIONS = ("count", "last-polarity")
DOWNSAMPLE_FACTORS = (1, 2, 4)
MAX_COUNT = 255


@dataclass(frozen=True)
class HistogramSettings:
    """Everything that shapes the numbers of a histogram. Raises ValueError if impossible.

    Args:
        window_us: events of [t - window_us, t) go into the sample at t, in us.
        time_steps: equal bins of the window, T.
        representation: "count" or "last-polarity".
        downsample: side of the square of sensor pixels that share a cell: 1, 2 or 4.
        height: sensor height in px.
        width: sensor width in px.
    """

    window_us: int = 250_000
    time_steps: int = 4
    representation: str = "count"
    downsample: int = 1
    height: int = HEIGHT
    width: int = WIDTH

    def __post_init__(self) -> None:
        if self.representation not in REPRESENTATIONS:
            expected = " or ".join(REPRESENTATIONS)
            raise ValueError(f"representation is {self.representation!r}, expected {expected}")
        _check(self.window_us, self.time_steps, self.height, self.width, self.downsample)

    @property
    def frame_shape(self) -> tuple[int, int, int, int]:
        """(T, 2, H, W) of one sample, after downsampling."""
        height, width = self.height // self.downsample, self.width // self.downsample
        return self.time_steps, 2, height, width


@dataclass(frozen=True)
class EventTally:
    """Where the events of windows went; the three sum to the events read.

    `clipped` lie in the frame but beyond what their cell can hold: 255 events for `count`,
    one per pixel for `last-polarity`.
    """

    counted: int = 0
    clipped: int = 0
    out_of_frame: int = 0

    def __add__(self, other: "EventTally") -> "EventTally":
        return EventTally(
            self.counted + other.counted,
            self.clipped + other.clipped,
            self.out_of_frame + other.out_of_frame,
        )

    @property
    def events(self) -> int:
        """Events read."""
        return self.counted + self.clipped + self.out_of_frame


def event_histogram(
    events: np.ndarray,
    start_us: int,
    window_us: int,
    time_steps: int,
    height: int,
    width: int,
    downsample: int = 1,
) -> np.ndarray:
    """Event counts, uint8 [T, 2, H / downsample, W / downsample], clipped at 255: the truth.

    events: structured (t in us, x, y, p). Bin of an event: (t - start_us) * T // window_us.
    Events outside [start_us, start_us + window_us) or height x width are ignored.
    """
    _check(window_us, time_steps, height, width, downsample)
    events = _inside(events, start_us, window_us, height, width)
    counts = np.zeros((time_steps, 2, height // downsample, width // downsample), np.int64)
    np.add.at(counts, _cells(events, start_us, window_us, time_steps, downsample), 1)
    return np.minimum(counts, MAX_COUNT).astype(np.uint8)


def last_polarity(
    events: np.ndarray,
    start_us: int,
    window_us: int,
    time_steps: int,
    height: int,
    width: int,
    downsample: int = 1,
) -> np.ndarray:
    """Polarity of the last event per bin and cell, one-hot uint8 [T, 2, H, W]: the truth.

    Same arguments and bins as event_histogram; of equal times the later in the array wins.
    """
    _check(window_us, time_steps, height, width, downsample)
    events = _inside(events, start_us, window_us, height, width)
    last = np.full((time_steps, height // downsample, width // downsample), -1, np.int8)
    step, polarity, row, column = _cells(events, start_us, window_us, time_steps, downsample)
    for i in np.argsort(events["t"], kind="stable"):
        last[step[i], row[i], column[i]] = polarity[i]
    return np.stack([last == 0, last == 1], axis=1).astype(np.uint8)


def expand_last_polarity(frames: np.ndarray) -> np.ndarray:
    """One-hot [..., 2, H, W] -> [..., 3, H, W] equal channels: 127 none, 0 OFF, 255 ON.

    The input frame of the SpikeYOLO authors' Gen1 experiments.
    """
    off, on = frames[..., 0, :, :], frames[..., 1, :, :]
    grey = np.where(on > 0, 255, np.where(off > 0, 0, 127)).astype(np.uint8)
    return np.repeat(grey[..., None, :, :], 3, axis=-3)


def window_histogram(
    reader: DatReader, start_us: int, settings: HistogramSettings
) -> tuple[np.ndarray, EventTally]:
    """One sample straight from the memory map: uint8 settings.frame_shape and its tally.

    Equal to event_histogram or last_polarity of reader.window(), without decoding events.
    """
    edges_us = bin_edges(start_us, settings.window_us, settings.time_steps)
    edges = np.array([reader.index_at(int(t_us)) for t_us in edges_us], np.int64)
    frames = np.empty(settings.frame_shape, np.uint8)
    cells = frames.shape[2] * frames.shape[3]
    if settings.representation == "count":
        dtype = np.min_scalar_type(max(MAX_COUNT + 1, np.diff(edges).max()))
        fill, slab = _fill_counts, np.empty((2, cells + 1), dtype)
    else:
        fill, slab = _fill_last_polarity, np.empty(cells + 1, np.uint8)
    address_bits, frame_hw = ADDRESS_BITS[reader.version], (settings.height, settings.width)
    shift = settings.downsample.bit_length() - 1
    counted, out_of_frame = fill(reader.records, edges, address_bits, frame_hw, shift, slab, frames)
    clipped = int(edges[-1] - edges[0]) - counted - out_of_frame
    return frames, EventTally(counted, clipped, out_of_frame)


def _check(window_us: int, time_steps: int, height: int, width: int, downsample: int) -> None:
    if not 1 <= time_steps <= window_us:
        found = f"{time_steps} time steps in a window of {window_us} us"
        raise ValueError(f"{found} were given, expected 1 to {max(window_us, 1)}")
    if downsample not in DOWNSAMPLE_FACTORS:
        raise ValueError(f"downsample is {downsample}, expected one of {DOWNSAMPLE_FACTORS}")
    if height < 1 or width < 1 or height % downsample or width % downsample:
        found = f"a frame of {height}x{width} px"
        raise ValueError(f"{found} was given, expected sides that are multiples of {downsample}")


def _inside(
    events: np.ndarray, start_us: int, window_us: int, height: int, width: int
) -> np.ndarray:
    """The events that lie in the window and in the frame."""
    t, x, y = events["t"], events["x"], events["y"]
    in_window = (t >= start_us) & (t < start_us + window_us)
    return events[in_window & (x >= 0) & (x < width) & (y >= 0) & (y < height)]


def _cells(
    events: np.ndarray, start_us: int, window_us: int, time_steps: int, downsample: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Index of every event into [T, 2, H, W]."""
    step = (events["t"].astype(np.int64) - start_us) * time_steps // window_us
    polarity, row, column = events["p"], events["y"] // downsample, events["x"] // downsample
    return step, polarity.astype(np.int64), row.astype(np.int64), column.astype(np.int64)


@numba.njit(cache=True)
def _cell(address, address_bits, frame_hw, shift, trash):
    """Row-major cell of an event, or trash if it is out of frame; compiles to no branch."""
    y_bit, p_bit = address_bits
    height, width = frame_hw
    x = np.int64(address & ((1 << y_bit) - 1))
    y = np.int64((address >> y_bit) & ((1 << (p_bit - y_bit)) - 1))
    inside = (x < width) & (y < height)
    return (y >> shift) * (width >> shift) + (x >> shift) if inside else trash


@numba.njit(cache=True, nogil=True)
def _fill_counts(records, edges, address_bits, frame_hw, shift, slab, frames):
    """Write counts of records[edges[k]:edges[k + 1]] to frames[k].

    slab: [2, cells + 1], wide enough for the fullest bin; its last column is the trash for
    events out of frame. Returns the sum of frames and the number of events out of frame.
    """
    trash = slab.shape[1] - 1
    counted = out_of_frame = 0
    for k in range(len(edges) - 1):
        slab[:] = 0
        for i in range(edges[k], edges[k + 1]):
            address = records[i, 1]
            cell = _cell(address, address_bits, frame_hw, shift, trash)
            slab[np.int64((address >> address_bits[1]) & 1), cell] += 1
        for polarity in range(2):
            counts, cells = slab[polarity], frames[k, polarity].reshape(trash)
            out_of_frame += int(counts[trash])
            for cell in range(trash):
                cells[cell] = min(counts[cell], MAX_COUNT)
                counted += cells[cell]
    return counted, out_of_frame


@numba.njit(cache=True, nogil=True)
def _fill_last_polarity(records, edges, address_bits, frame_hw, shift, slab, frames):
    """Like _fill_counts, with slab [cells + 1]: 0 for no event, else 1 + the last polarity."""
    trash = len(slab) - 1
    counted = out_of_frame = 0
    for k in range(len(edges) - 1):
        slab[:] = 0
        for i in range(edges[k], edges[k + 1]):
            address = records[i, 1]
            cell = _cell(address, address_bits, frame_hw, shift, trash)
            slab[cell] = ((address >> address_bits[1]) & 1) + 1
            out_of_frame += cell == trash
        off, on = frames[k, 0].reshape(trash), frames[k, 1].reshape(trash)
        for cell in range(trash):
            off[cell], on[cell] = slab[cell] == 1, slab[cell] == 2
            counted += slab[cell] > 0
    return counted, out_of_frame
