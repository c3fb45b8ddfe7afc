"""Events -> uint8 [T, 2, H, W], channel 0 = OFF and 1 = ON: slow truth, then fast kernels.

`count` holds the number of events per bin and pixel, 255 at most. `last_polarity` holds a
single 1 per bin and pixel, in the channel of the last event there.
"""

import operator
from dataclasses import astuple, dataclass
from typing import Any, Literal, get_args

import numpy as np

from gen1.compiled import compiled
from gen1.dat import ADDRESS_BITS, DatReader
from gen1.spec import GEN1, ProtocolName
from preprocessing.denoise import kept_events

Representation = Literal["count", "last-polarity", "rvt"]
Downsample = Literal[1, 2, 4]
Keep = Literal["", "masks", ProtocolName]
DOWNSAMPLE_FACTORS = get_args(Downsample)
MAX_COUNT = 255
KEEPS_ALL = "everything"  # what an empty `keep` is called
BLOCK = 2048  # events whose cells are computed at a time: 8 KiB, stays in the first cache


@dataclass(frozen=True)
class HistogramSettings:
    """Everything that shapes the samples of a cache. Raises ValueError if impossible.

    Args:
        window_us: Events of [t - window_us, t) go into the sample at t, in us.
        time_steps: Equal bins of the window, T.
        representation: Events per bin and cell (255 at most), or a 1 for the last one's polarity;
            rvt: frames that RVT made, taken by `python -m preprocessing rvt` alone.
        downsample: Side in sensor px of the square that shares a cell.
        height: Expected sensor height in px.
        width: Expected sensor width in px.
        every_us: Samples at this stride from the first event on, in us; 0 takes the label times.
        keep: Only label times with a box that counts under this protocol; "" takes all; masks: the
            times of the class masks beside the recordings, boxes or not.
        denoise_us: Leave out events without a neighbour's in so many us before; 0 leaves none out.
        hot_pixel_hz: Leave out pixels with more events/s over the recording; 0 leaves none out.
    """

    window_us: int = 250_000
    time_steps: int = 4
    representation: Representation = "count"
    downsample: Downsample = 1
    height: int = GEN1.height
    width: int = GEN1.width
    every_us: int = 0
    keep: Keep = ""
    denoise_us: int = 0
    hot_pixel_hz: float = 0.0

    def __post_init__(self) -> None:
        if self.representation not in get_args(Representation):
            expected = " or ".join(get_args(Representation))
            raise ValueError(f"representation is {self.representation!r}, expected {expected}")
        if self.keep not in get_args(Keep):
            known = ", ".join(get_args(ProtocolName))
            raise ValueError(f"keep is {self.keep!r}, expected one of {known}, masks")
        if self.keep and self.every_us:
            raise ValueError("both every_us and keep were given, expected one: keep is of labels")
        for name in ("every_us", "denoise_us", "hot_pixel_hz"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 (off) or more")
        _check(self.window_us, self.time_steps, self.height, self.width, self.downsample)

    @property
    def sampling(self) -> str:
        """When samples are taken, in words."""
        if self.every_us:
            return f"samples every {self.every_us / 1e3:g} ms"
        return f"samples at label times, keep: {self.keep or KEEPS_ALL}"

    @property
    def frame_shape(self) -> tuple[int, int, int, int]:
        """(T, 2, H, W) of one sample, after downsampling."""
        height, width = self.height // self.downsample, self.width // self.downsample
        return self.time_steps, 2, height, width


@dataclass(frozen=True)
class EventTally:
    """Where the events of windows went; the four sum to the events read.

    `clipped` lie in the frame but beyond what their cell can hold: 255 events for `count`,
    one per pixel for `last-polarity`. `filtered` were left out as noise.
    """

    counted: int = 0
    clipped: int = 0
    out_of_frame: int = 0
    filtered: int = 0

    def __add__(self, other: "EventTally") -> "EventTally":
        return EventTally(*map(operator.add, astuple(self), astuple(other)))

    @property
    def events(self) -> int:
        """Events read."""
        return sum(astuple(self))


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
    cells = _cells(events, start_us, window_us, time_steps, height, width, downsample)
    counts = np.zeros((time_steps, 2, height // downsample, width // downsample), np.int64)
    np.add.at(counts, cells, 1)
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
    events = events[np.argsort(events["t"], kind="stable")]
    cells = _cells(events, start_us, window_us, time_steps, height, width, downsample)
    last = np.full((time_steps, height // downsample, width // downsample), -1, np.int8)
    for step, polarity, row, column in zip(*cells, strict=True):
        last[step, row, column] = polarity
    return np.stack([last == 0, last == 1], axis=1).astype(np.uint8)


def expand_last_polarity(frames: np.ndarray) -> np.ndarray:
    """One-hot [..., 2, H, W] -> [..., 3, H, W] equal channels: 127 none, 0 OFF, 255 ON.

    The input frame of the SpikeYOLO authors' Gen1 experiments.
    """
    off, on = frames[..., 0, :, :], frames[..., 1, :, :]
    grey = np.where(on > 0, 255, np.where(off > 0, 0, 127)).astype(np.uint8)
    return np.repeat(grey[..., None, :, :], 3, axis=-3)


def window_histogram(
    reader: DatReader,
    start_us: int,
    settings: HistogramSettings,
    hot: np.ndarray | None = None,
) -> tuple[np.ndarray, EventTally]:
    """One sample straight from the records: uint8 settings.frame_shape and its tally.

    Equal to event_histogram or last_polarity of reader.window(), without decoding events, and
    without the noise that settings leave out. hot: bool [height, width], pixels to ignore.
    """
    edges_us = bin_edges(start_us, settings.window_us, settings.time_steps)
    packed, edges = reader.binned(edges_us)
    n_events = len(packed)
    if settings.denoise_us or hot is not None:
        hot = np.zeros((settings.height, settings.width), bool) if hot is None else hot
        end_us = start_us + settings.window_us
        kept = kept_events(reader, start_us, end_us, settings.denoise_us, hot)
        packed, edges = packed[kept], np.append(0, np.cumsum(kept))[edges]
    frames = np.empty(settings.frame_shape, np.uint8)
    counted, out_of_frame = fill_frames(
        frames, packed, edges, settings, ADDRESS_BITS[reader.version]
    )
    clipped = len(packed) - counted - out_of_frame
    return frames, EventTally(counted, clipped, out_of_frame, n_events - len(packed))


def bin_edges(start_us: int, window_us: int, time_steps: int) -> np.ndarray:
    """Edges of the time_steps bins of a window, int64 [time_steps + 1] in us.

    Bin k holds edges[k] <= t < edges[k + 1], exactly the events with
    (t - start_us) * time_steps // window_us == k; hence the rounding up.
    """
    steps = np.arange(time_steps + 1, dtype=np.int64)
    return start_us - (-window_us * steps) // time_steps


def fill_frames(
    frames: np.ndarray,
    packed: np.ndarray,
    edges: np.ndarray,
    settings: HistogramSettings,
    address_bits: tuple[int, int],
) -> tuple[int, int]:
    """Write the histogram of packed events; returns the events counted and out of frame.

    frames: uint8 settings.frame_shape; packed: uint64 [n], addresses in the high half; bin k
    holds packed[edges[k]:edges[k + 1]].
    """
    cells = frames.shape[2] * frames.shape[3]
    if settings.representation == "count":
        dtype = np.min_scalar_type(max(MAX_COUNT + 1, np.diff(edges).max()))
        fill, slab = _fill_counts, np.empty(2 * cells + 1, dtype)
    else:
        fill, slab = _fill_last_polarity, np.empty(cells + 1, np.uint8)
    layout = (*address_bits, settings.height, settings.width, settings.downsample)
    located = np.empty(BLOCK, np.uint32)
    return fill(packed, edges, layout, located, slab, frames.reshape(len(frames), -1))


def _check(window_us: int, time_steps: int, height: int, width: int, downsample: int) -> None:
    if not 1 <= time_steps <= window_us:
        found = f"{time_steps} time steps in a window of {window_us} us"
        raise ValueError(f"{found} were given, expected 1 to {max(window_us, 1)}")
    if downsample not in DOWNSAMPLE_FACTORS:
        raise ValueError(f"downsample is {downsample}, expected one of {DOWNSAMPLE_FACTORS}")
    if height < 1 or width < 1 or height % downsample or width % downsample:
        found = f"a frame of {height}x{width} px"
        raise ValueError(f"{found} was given, expected sides that are multiples of {downsample}")


def _cells(
    events: np.ndarray,
    start_us: int,
    window_us: int,
    time_steps: int,
    height: int,
    width: int,
    downsample: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Index into [T, 2, H, W], int64, of every event in the window and in the frame."""
    _check(window_us, time_steps, height, width, downsample)
    t, x, y, p = (events[name].astype(np.int64) for name in "txyp")
    inside = (t >= start_us) & (t < start_us + window_us)
    inside &= (x >= 0) & (x < width) & (y >= 0) & (y < height)
    step = (t[inside] - start_us) * time_steps // window_us
    return step, p[inside], y[inside] // downsample, x[inside] // downsample


@compiled()
def _locate(packed: np.ndarray, layout: tuple[Any, ...], located: np.ndarray) -> None:
    """Write the cell of every event to located, (p * H + row) * W + column.

    packed: uint64 [n], address in the high half. An event out of frame gets the cell one past
    the last. All operands are uint64, so that the loop becomes vector instructions.
    """
    y_bit, p_bit, height, width, downsample = layout
    one, shift = np.uint64(1), np.uint64(downsample // 2)  # 1, 2, 4 -> 0, 1, 2 bits
    x_mask, y_mask = (one << np.uint64(y_bit)) - one, (one << np.uint64(p_bit - y_bit)) - one
    to_x, to_y, to_p = np.uint64(32), np.uint64(32 + y_bit), np.uint64(32 + p_bit)
    height, width = np.uint64(height), np.uint64(width)
    columns = width >> shift
    cells = (height >> shift) * columns
    for i in range(len(packed)):
        x, y = (packed[i] >> to_x) & x_mask, (packed[i] >> to_y) & y_mask
        cell = ((packed[i] >> to_p) & one) * cells + (y >> shift) * columns + (x >> shift)
        located[i] = np.uint32(cell if (x < width) & (y < height) else cells + cells)


@compiled(nogil=True)
def _fill_counts(
    packed: np.ndarray,
    edges: np.ndarray,
    layout: tuple[Any, ...],
    located: np.ndarray,
    slab: np.ndarray,
    frames: np.ndarray,
) -> tuple[Any, Any]:
    """Write counts of packed[edges[k]:edges[k + 1]] to frames[k]; frames: [T, cells].

    located: a scratch block of cells. slab: [cells + 1], wide enough for the fullest bin; its
    last cell takes the events out of frame. Returns the sum of frames and those events' number.
    """
    trash = len(slab) - 1
    counted = out_of_frame = np.int64(0)
    for k in range(len(edges) - 1):
        slab[:] = 0
        for start in range(edges[k], edges[k + 1], len(located)):
            block = packed[start : min(start + len(located), edges[k + 1])]
            _locate(block, layout, located)
            for cell in located[: len(block)]:
                slab[cell] += 1
        out_of_frame += np.int64(slab[trash])
        for cell in range(trash):
            frames[k, cell] = min(slab[cell], MAX_COUNT)
        counted += frames[k].sum()
    return counted, out_of_frame


@compiled(nogil=True)
def _fill_last_polarity(
    packed: np.ndarray,
    edges: np.ndarray,
    layout: tuple[Any, ...],
    located: np.ndarray,
    slab: np.ndarray,
    frames: np.ndarray,
) -> tuple[Any, Any]:
    """Like _fill_counts, with a slab per pixel: 0 for no event, else 1 + the last polarity."""
    cells = len(slab) - 1
    counted = out_of_frame = np.int64(0)
    for k in range(len(edges) - 1):
        slab[:] = 0
        for start in range(edges[k], edges[k + 1], len(located)):
            block = packed[start : min(start + len(located), edges[k + 1])]
            _locate(block, layout, located)
            for cell in located[: len(block)]:
                polarity = cell >= cells
                slab[cell - cells * polarity] = 1 + polarity
                out_of_frame += cell == 2 * cells
        for cell in range(cells):
            frames[k, cell], frames[k, cells + cell] = slab[cell] == 1, slab[cell] == 2
        counted += frames[k].sum()
    return counted, out_of_frame
