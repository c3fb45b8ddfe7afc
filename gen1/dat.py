"""Prophesee .dat recordings: memory-mapped reading, seeking by microsecond, writing.

A file is ASCII lines `% key value`, two bytes (event type, record size) and little-endian
records of 8 bytes: u32 time in us, u32 address. Two repairs make time a sorted line: a step
back by more than 2^31 us is the u32 counter wrapping around, any other event earlier than its
predecessors gets their latest time.
"""

import mmap
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numba
import numpy as np

from gen1.atomic import atomic_write
from gen1.spec import EVENT

#: Record version -> (first bit of y, bit of the polarity) in an address; x starts at bit 0.
ADDRESS_BITS = {1: (9, 17), 2: (14, 28)}
#: Events per entry of the seek index.
BLOCK = 65_536
#: Blocks that the scan reads at a time: 2 MiB.
BLOCKS_AT_ONCE = 4

EVENT_TYPES = (0, 12)  # Event2D, CD
RECORD_BYTES = 8
MAX_HEADER_BYTES = 65_536
MAX_SIDE = 1 << 14
LARGEST_SENSOR_HW = (720, 1280)
FOREIGN_STARTS = (b"\x93NUMPY", b"\x89HDF", b"PK\x03\x04")
CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\r\n"))


@dataclass(frozen=True)
class TimeOrder:
    """What one pass over a recording found; first_us and last_us are repaired times.

    `out_of_frame` counts events beyond the header's Width or Height, None where it has none.
    """

    backward_steps: int
    wraps: int
    out_of_frame: int | None
    first_us: int
    last_us: int

    @property
    def is_sorted(self) -> bool:
        """True when the stored times need no repair."""
        return self.backward_steps == 0 and self.wraps == 0


class DatReader:
    """One recording. `records`: uint32 [n_events, 2] memory map of (time in us, address).

    `packed` is the same as uint64 [n_events], the time in the low half. `height` and `width`
    are None where the header has none; a headerless file is read as version 2.
    `trailing_bytes` is the length of a truncated last record, which is dropped.
    Raises ValueError if the file is not a .dat recording.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such file, expected a .dat recording")
        fields, offset = _read_header(self.path)
        self.version = _integer(self.path, fields, "version", 1, 2) or 2
        self.height = _integer(self.path, fields, "height", 1, MAX_SIDE)
        self.width = _integer(self.path, fields, "width", 1, MAX_SIDE)
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        self._offset = offset
        self.n_events, self.trailing_bytes = divmod(size - offset, RECORD_BYTES)
        self.packed = np.frombuffer(self._map, "<u8", self.n_events, offset)
        self.records = self.packed.view("<u4").reshape(-1, 2)
        if offset == 0:
            _refuse_implausible(self.path, self.records)

    def read(self) -> np.ndarray:
        """All events, EVENT [n_events], with the times as stored (not repaired)."""
        return self.decode(0, self.n_events)

    def decode(self, first: int, last: int) -> np.ndarray:
        """Events first to last - 1, EVENT [n], with the times as stored (not repaired)."""
        return decode(self.records[first:last], self.version)

    def window(self, start_us: int, end_us: int) -> np.ndarray:
        """Events with start_us <= repaired time < end_us, EVENT [n], times repaired.

        A window that reaches beyond the recording gets what there is.
        """
        first = self.index_at(start_us)
        last = max(first, self.index_at(end_us))
        events = self.decode(first, last)
        if not self.order.is_sorted and last > first:
            events["t"] = self._repaired_times(first, last)
        return events

    def index_at(self, t_us: int) -> int:
        """Index of the first event whose repaired time is t_us or later; n_events if none is."""
        if self.order.is_sorted:
            return int(_first_sorted(self.packed, t_us))
        _, carried_us, wraps = self._scan
        block = max(int(np.searchsorted(carried_us, t_us)) - 1, 0)
        start = block * BLOCK
        times_us = self.records[start : start + BLOCK, 0]
        return start + int(_first_at(times_us, carried_us[block], wraps[block], t_us))

    @property
    def order(self) -> TimeOrder:
        """State of the stored times; the first use reads the whole file once."""
        return self._scan[0]

    @property
    def duration_us(self) -> int:
        """End of the recording: one past the last repaired time, 0 without events."""
        return self.order.last_us + 1 if self.n_events else 0

    def release(self) -> None:
        """Give the memory of the map back to the system; what is read again is mapped again."""
        if isinstance(self._map, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """Index of the first event and uint64 [n] of pieces of BLOCKS_AT_ONCE, read in order.

        For one pass, reading is cheaper than mapping. Raises ValueError if the file shrank.
        """
        buffer = np.empty(BLOCKS_AT_ONCE * BLOCK, "<u8")
        with self.path.open("rb") as file:
            if hasattr(os, "posix_fadvise"):  # the system then reads ahead twice as far
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            file.seek(self._offset)
            for first in range(0, self.n_events, len(buffer)):
                piece = buffer[: self.n_events - first]
                if file.readinto(piece.data) < piece.nbytes:
                    found = "became shorter while it was read"
                    raise ValueError(f"{self.path}: {found}, expected a finished recording")
                yield first, piece

    def _repaired_times(self, first: int, last: int) -> np.ndarray:
        """Repaired times in us of events [first, last), int64 [last - first]."""
        _, carried_us, wraps = self._scan
        block = first // BLOCK
        times_us = _repair(self.records[block * BLOCK : last, 0], carried_us[block], wraps[block])
        return times_us[first - block * BLOCK :]

    @cached_property
    def _scan(self) -> tuple[TimeOrder, np.ndarray, np.ndarray]:
        """The order and, per block of BLOCK events, the repaired time and wraps before it."""
        known = self.height is not None and self.width is not None
        frame_hw = (self.height or MAX_SIDE, self.width or MAX_SIDE)
        n_blocks = -(-self.n_events // BLOCK)
        carried_us, wraps = np.full(n_blocks + 1, -1), np.zeros(n_blocks + 1, np.int64)
        previous_us, backward, outside = -1, 0, 0
        for first, packed in self._pieces():
            blocks = slice(first // BLOCK, (first + len(packed) - 1) // BLOCK + 2)
            previous_us, steps, beyond = _scan_records(
                packed,
                carried_us[blocks],
                wraps[blocks],
                previous_us,
                *frame_hw,
                *ADDRESS_BITS[self.version],
            )
            backward, outside = backward + steps, outside + beyond
        order = TimeOrder(
            backward_steps=int(backward),
            wraps=int(wraps[-1]),
            out_of_frame=int(outside) if known else None,
            first_us=int(self.records[0, 0]) if self.n_events else 0,
            last_us=int(carried_us[-1]) if self.n_events else 0,
        )
        return order, carried_us[:-1], wraps[:-1]


def decode(records: np.ndarray, version: int) -> np.ndarray:
    """uint32 [n, 2] records (time, address) -> EVENT [n], times as stored."""
    y_bit, p_bit = ADDRESS_BITS[version]
    address = records[:, 1]
    events = np.empty(len(records), EVENT)
    events["t"] = records[:, 0]
    events["x"] = address & ((1 << y_bit) - 1)
    events["y"] = (address >> y_bit) & ((1 << (p_bit - y_bit)) - 1)
    events["p"] = (address >> p_bit) & 1
    return events


def write_dat(path: Path | str, events: np.ndarray, height: int, width: int) -> None:
    """Write events (structured, fields t in us, x, y, p) as a version 2 recording, atomically.

    Raises ValueError for a time outside u32, a pixel outside height x width or a p not 0 or 1.
    """
    write_dat_packets(path, [events], height, width)


def write_dat_packets(
    path: Path | str, packets: Iterable[np.ndarray], height: int, width: int
) -> None:
    """write_dat for events that come in pieces, so that they need not fit into memory."""
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(f"{path}: sensor {height}x{width} px, expected sides of 1 to {MAX_SIDE}")
    header = f"% Data file containing Event2D events.\n% Version 2\n% Height {height}\n"
    with atomic_write(path) as file:
        file.write(f"{header}% Width {width}\n".encode() + bytes([EVENT_TYPES[0], RECORD_BYTES]))
        for events in packets:
            file.write(_encode(path, events, height, width).data)


def _encode(path: Path | str, events: np.ndarray, height: int, width: int) -> np.ndarray:
    """Version 2 records uint32 [n, 2]; raises ValueError for events they cannot hold."""
    for name, limit in {"t": 1 << 32, "x": width, "y": height, "p": 2}.items():
        if name not in (events.dtype.names or ()) or events.dtype[name].kind not in "iub":
            raise ValueError(f"{path}: events of {events.dtype}, expected integers t, x, y, p")
        values = events[name]
        if len(values) and (values.min() < 0 or values.max() >= limit):
            found = f"{name} from {values.min()} to {values.max()}"
            raise ValueError(f"{path}: events have {found}, expected 0 to {limit - 1}")
    y_bit, p_bit = ADDRESS_BITS[2]
    records = np.empty((len(events), 2), "<u4")
    records[:, 0] = events["t"]
    x, y, p = (events[name].astype(np.uint32) for name in "xyp")
    records[:, 1] = x | y << y_bit | p << p_bit
    return records


def _read_header(path: Path) -> tuple[dict[str, str], int]:
    """Header keys in lower case -> value, and the offset of the first record in bytes."""
    with path.open("rb") as file:
        head = file.read(MAX_HEADER_BYTES)
    if head.startswith(FOREIGN_STARTS):
        hint = "; Metavision's metavision_file_to_dat makes one" if b"HDF" in head[:4] else ""
        found = f"begins with {head[:6]!r}"
        raise ValueError(f"{path}: {found}, expected a Prophesee .dat recording{hint}")
    fields: dict[str, str] = {}
    offset = 0
    while head.startswith(b"% ", offset) and "end" not in fields:
        line, newline, _ = head[offset:].partition(b"\n")
        if line.translate(None, CONTROL_BYTES) != line:
            break  # binary records that happen to begin with the two header characters
        if not newline:
            raise ValueError(f"{path}: ends inside its header, expected .dat records after it")
        key, _, value = line[2:].decode("latin-1").strip().partition(" ")
        fields[key.lower()] = value.strip()
        offset += len(line) + 1
    if offset == 0:
        return fields, 0
    if {"evt", "format"} & set(fields):
        hint = "`python -m gen1.convert` makes one"
        raise ValueError(f"{path}: is a raw EVT stream, expected a .dat recording; {hint}")
    kind = tuple(head[offset : offset + 2])
    if len(kind) < 2:
        raise ValueError(f"{path}: ends inside its header, expected .dat records after it")
    if kind[0] not in EVENT_TYPES or kind[1] != RECORD_BYTES:
        found = f"event type {kind[0]} with records of {kind[1]} bytes"
        raise ValueError(f"{path}: {found}, expected type 0 or 12 with records of 8 bytes")
    return fields, offset + 2


def _integer(path: Path, fields: dict[str, str], key: str, low: int, high: int) -> int | None:
    """Header field as an integer in [low, high], None where the header lacks it."""
    if key not in fields:
        return None
    text = fields[key]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise ValueError(f"{path}: header says {key} {text[:20]!r}, expected {low} to {high}")
    return int(text)


def _refuse_implausible(path: Path, records: np.ndarray) -> None:
    """Raise ValueError unless most leading records of a headerless file lie on some sensor."""
    head = decode(records[:4096], 2)
    height, width = LARGEST_SENSOR_HW
    if not len(head) or np.mean((head["x"] < width) & (head["y"] < height)) <= 0.5:
        found = "has neither a .dat header nor records on a sensor"
        raise ValueError(f"{path}: {found}, expected a Prophesee .dat recording")


@numba.njit(cache=True)
def _first_sorted(packed, t_us):
    """Index of the first event at t_us or later, by bisection; packed: uint64 [n], sorted."""
    low, high = 0, len(packed)
    while low < high:
        middle = (low + high) // 2
        if np.int64(np.uint32(packed[middle])) < t_us:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(cache=True)
def _next_time(raw_us, latest_us, wraps):
    """Extended time of a stored time (not yet clamped) and the wraps so far."""
    time_us = np.int64(raw_us) + (wraps << 32)
    if latest_us - time_us > 1 << 31:
        return time_us + (1 << 32), wraps + 1
    if wraps > 0 and time_us - latest_us > 1 << 31:
        return time_us - (1 << 32), wraps  # a late event from before the wrap
    return time_us, wraps


@numba.njit(cache=True)
def _repair(raw_us, latest_us, wraps):
    """Stored times u32 [n] -> repaired int64 [n], given the state before the first of them."""
    repaired_us = np.empty(len(raw_us), np.int64)
    for i in range(len(raw_us)):
        time_us, wraps = _next_time(raw_us[i], latest_us, wraps)
        latest_us = max(latest_us, time_us)
        repaired_us[i] = latest_us
    return repaired_us


@numba.njit(cache=True)
def _first_at(raw_us, latest_us, wraps, t_us):
    """Index of the first stored time u32 [n] whose repaired time is t_us or later, else n."""
    for i in range(len(raw_us)):
        time_us, wraps = _next_time(raw_us[i], latest_us, wraps)
        latest_us = max(latest_us, time_us)
        if latest_us >= t_us:
            return i
    return len(raw_us)


@numba.njit(cache=True)
def _count_block(packed, height, width, y_bit, p_bit):
    """Steps back between neighbours and events outside height x width; packed: uint64 [n].

    All operands are uint64, so that the compiler turns the loop into vector instructions.
    """
    time_mask, address_bit = np.uint64((1 << 32) - 1), np.uint64(32)
    x_mask, y_mask = np.uint64((1 << y_bit) - 1), np.uint64((1 << (p_bit - y_bit)) - 1)
    height, width, y_shift = np.uint64(height), np.uint64(width), np.uint64(32 + y_bit)
    descents = outside = np.uint64(0)
    for i in range(len(packed)):
        x, y = (packed[i] >> address_bit) & x_mask, (packed[i] >> y_shift) & y_mask
        outside += np.uint64((x >= width) | (y >= height))
    for i in range(1, len(packed)):
        descents += np.uint64((packed[i] & time_mask) < (packed[i - 1] & time_mask))
    return np.int64(descents), np.int64(outside)


@numba.njit(cache=True, nogil=True)
def _scan_records(packed, carried_us, wraps, previous_us, height, width, y_bit, p_bit):
    """Scan consecutive blocks; returns the last time and what it counted.

    packed: uint64 [n], the time in the low half. carried_us, wraps: int64 [blocks + 1], the
    state (repaired time, wraps) before every block and after the last; the first is given, the
    others are filled in. Counts: steps back in time other than wraps, events outside
    height x width. A block that only goes forward, the usual case, needs no repair.
    """
    backward = outside = 0
    for block in range(len(carried_us) - 1):
        rows = packed[block * BLOCK : (block + 1) * BLOCK]
        descents, block_outside = _count_block(rows, height, width, y_bit, p_bit)
        outside += block_outside
        latest_us, count = carried_us[block], wraps[block]
        first_us = np.int64(np.uint32(rows[0])) + (count << 32)
        last_us = np.int64(np.uint32(rows[-1])) + (count << 32)
        near = count == 0 or last_us - latest_us < 1 << 31
        if descents == 0 and first_us >= latest_us and near:
            latest_us = previous_us = last_us
        else:
            for i in range(len(rows)):
                time_us, count = _next_time(np.uint32(rows[i]), latest_us, count)
                backward += time_us < previous_us
                previous_us = time_us
                latest_us = max(latest_us, time_us)
        carried_us[block + 1], wraps[block + 1] = latest_us, count
    return previous_us, backward, outside
