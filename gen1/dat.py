"""Prophesee .dat recordings: memory-mapped reading, seeking by microsecond, writing.

A file is ASCII lines `% key value`, two bytes (event type, record size) and little-endian
records of 8 bytes: u32 time in us, u32 address. gen1.clock says how times that step back are read.
"""

import mmap
import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gen1.atomic import atomic_write
from gen1.clock import BLOCK, Clock, far_ends, read_clock
from gen1.compiled import compiled
from gen1.spec import EVENT

#: Record version -> (first bit of y, bit of the polarity) in an address; x starts at bit 0.
ADDRESS_BITS = {1: (9, 17), 2: (14, 28)}
#: Blocks that the scan reads at a time: 2 MiB.
BLOCKS_AT_ONCE = 4

EVENT_TYPES = (0, 12)  # Event2D, CD
RECORD_BYTES = 8
MAX_HEADER_BYTES = 65_536
MAX_SIDE = 1 << 14
LARGEST_SENSOR_HW = (720, 1280)
#: "% Height 240" as Prophesee writes it, and as other tools do: "%Height: 240", "% height=240".
HEADER_LINE = re.compile(rb"%[ \t]*([^ \t\r\n:=]*)[ \t]*[:=]?([^\n]*)")
HEAD = 4096  # events that a guess is made from
FOREIGN_STARTS = (b"\x93NUMPY", b"\x89HDF", b"PK\x03\x04")
CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\r\n"))


@dataclass(frozen=True)
class TimeOrder:
    """What a recording's times are like; first_us and last_us are those of its events in order.

    moved: events that came after later ones and are read in their place; left_out: those whose
    time is impossible. out_of_frame: beyond the header's Width or Height, None where it has none.
    """

    moved: int
    left_out: int
    wraps: int
    out_of_frame: int | None
    first_us: int
    last_us: int


class DatReader:
    """One recording. `records`: uint32 [n_events, 2] memory map of (time in us, address).

    `packed` is the same as uint64 [n_events], the time in the low half. `height` and `width`
    are None where the header has none; so is the version, which the addresses then tell.
    `trailing_bytes` is the length of a truncated last record, which is dropped.
    origin_us: added to all times but those of `records`; source: what the file was made of.
    Raises ValueError if the file is not a .dat recording.
    """

    def __init__(self, path: Path | str, origin_us: int = 0, source: Path | None = None) -> None:
        self.path, self.origin_us = Path(path), origin_us
        self.source = source or self.path
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such file, expected a .dat recording")
        fields, offset = _read_header(self.path)
        version = _integer(self.path, fields, "version", 1, 2)
        self.height = _integer(self.path, fields, "height", 1, MAX_SIDE)
        self.width = _integer(self.path, fields, "width", 1, MAX_SIDE)
        with self.path.open("rb") as file:
            size = file.seek(0, 2)
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        self._offset = offset
        self.n_events, self.trailing_bytes = divmod(size - offset, RECORD_BYTES)
        self.packed = np.frombuffer(self._map, "<u8", self.n_events, offset)
        self.records = self.packed.view("<u4").reshape(-1, 2)
        self.version = version or _guess_version(self.records, self.width)
        if offset == 0:
            _refuse_implausible(self.path, self.records, self.version)

    def read(self) -> np.ndarray:
        """All events, EVENT [n_events], with the times as stored (not repaired)."""
        return self.decode(0, self.n_events)

    def decode(self, first: int, last: int) -> np.ndarray:
        """Events first to last - 1, EVENT [n], with the times as stored (not repaired)."""
        events = decode(self.records[first:last], self.version)
        events["t"] += self.origin_us
        return events

    def window(self, start_us: int, end_us: int) -> np.ndarray:
        """Events with start_us <= time < end_us, EVENT [n], in order of their true times.

        A window that reaches beyond the recording gets what there is.
        """
        if self._clock is None:
            first = self.index_at(start_us)
            return self.decode(first, max(first, self.index_at(end_us)))
        window_us = start_us - self.origin_us, end_us - self.origin_us
        times_us, packed = self._clock.select(self.packed, *window_us)
        events = decode(packed.view("<u4").reshape(-1, 2), self.version)
        events["t"] = times_us + self.origin_us
        return events

    def binned(self, edges_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Records uint64 [n] of [edges_us[0], edges_us[-1]), and where each edge falls in them.

        Bin k holds records[edges[k]:edges[k + 1]]; edges: int64, ascending.
        """
        if self._clock is None:
            edges = np.array([self.index_at(int(t_us)) for t_us in edges_us], np.int64)
            return self.packed[edges[0] : edges[-1]], edges - edges[0]
        edges_us = edges_us - self.origin_us
        times_us, packed = self._clock.select(self.packed, int(edges_us[0]), int(edges_us[-1]))
        return packed, np.searchsorted(times_us, edges_us)

    def index_at(self, t_us: int) -> int:
        """How many events are earlier than t_us, those with impossible times not counted."""
        if self._clock is None:
            return bisect_left(self.records[:, 0], t_us - self.origin_us)
        return self._clock.before(self.packed, t_us - self.origin_us)

    @property
    def order(self) -> TimeOrder:
        """State of the stored times; the first use reads the whole file once.

        Raises ValueError if its clock was set back, zeros fill it, or it is not of its sensor.
        """
        return self._scan[0]

    @property
    def duration_us(self) -> int:
        """From the first event to one past the last, in us; 0 without events."""
        return self.order.last_us + 1 - self.order.first_us if self.n_events else 0

    def release(self) -> None:
        """Give the memory of the map back to the system; what is read again is mapped again."""
        if isinstance(self._map, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _pieces(self) -> Iterator[np.ndarray]:
        """All records in order, uint64 [n] of BLOCKS_AT_ONCE at a time.

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
                    raise ValueError(f"{self.source}: {found}, expected a finished recording")
                yield piece

    @property
    def _clock(self) -> Clock | None:
        """None where the times are in order."""
        return self._scan[1]

    @cached_property
    def _scan(self) -> tuple[TimeOrder, Clock | None]:
        known = self.height is not None and self.width is not None
        frame_hw = (self.height or MAX_SIDE, self.width or MAX_SIDE)
        previous, descents, outside = np.uint64(0), 0, 0
        for piece in self._pieces():
            for packed in np.split(piece, range(BLOCK, len(piece), BLOCK)):
                steps, beyond = _count(packed, previous, *frame_hw, *ADDRESS_BITS[self.version])
                previous, descents, outside = packed[-1], descents + steps, outside + beyond
        if known and 2 * outside > self.n_events:
            found = f"{outside} of {self.n_events} events lie beyond {self.height}x{self.width} px"
            hint = f"its header names another sensor, or a version other than {self.version}"
            raise ValueError(f"{self.source}: {found}, expected few: perhaps {hint}")
        moved = left_out = wraps = 0
        clock, first_us, last_us = None, 0, 0
        if descents or len(far_ends(self.packed)):
            clock = read_clock(self.source, self.packed)
            self.release()
            moved, left_out, wraps = clock.moved, len(clock.left_out), int(clock.wraps[-1])
            first_us, last_us = int(clock.least_us[0]), int(clock.carried_us[-1])
        elif self.n_events:
            first_us, last_us = (int(self.records[i, 0]) for i in (0, -1))
        out_of_frame = int(outside) if known else None
        ends_us = first_us + self.origin_us, last_us + self.origin_us
        return TimeOrder(moved, left_out, wraps, out_of_frame, *ends_us), clock


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
    path: Path | str, packets: Iterable[np.ndarray], height: int | None, width: int | None
) -> None:
    """write_dat for events that come in pieces, so that they need not fit into memory.

    The header does not name a side that is None.
    """
    sides = height or MAX_SIDE, width or MAX_SIDE
    write_packed(path, (_encode(path, events, *sides) for events in packets), height, width)


def write_packed(
    path: Path | str,
    pieces: Iterable[np.ndarray],
    height: int | None,
    width: int | None,
    synced: bool = True,
) -> None:
    """write_dat_packets for version 2 records, arrays of 8 bytes an event."""
    sides = {"Height": height, "Width": width}
    for side in sides.values():
        if side is not None and not 1 <= side <= MAX_SIDE:
            expected = f"expected sides of 1 to {MAX_SIDE}"
            raise ValueError(f"{path}: sensor {height}x{width} px, {expected}")
    lines = ["Data file containing Event2D events.", "Version 2"]
    lines += [f"{name} {side}" for name, side in sides.items() if side]
    header = "".join(f"% {line}\n" for line in lines)
    with atomic_write(path, synced) as file:
        file.write(header.encode() + bytes([EVENT_TYPES[0], RECORD_BYTES]))
        for records in pieces:
            file.write(records.data)


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
        hint = "; `python -m gen1.convert` makes one"
        found = f"begins with {head[:6]!r}"
        raise ValueError(f"{path}: {found}, expected a Prophesee .dat recording{hint}")
    fields, offset = header_fields(path, head, HEADER_LINE, ".dat records")
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


def header_fields(
    path: Path, head: bytes, line_pattern: re.Pattern[bytes], follows: str
) -> tuple[dict[str, str], int]:
    """Keys in lower case -> value of a file's leading lines, and the offset of what follows."""
    fields: dict[str, str] = {}
    offset = 0
    while (match := line_pattern.match(head, offset)) and "end" not in fields:
        line, newline, _ = head[offset:].partition(b"\n")
        if line.translate(None, CONTROL_BYTES) != line:
            break  # binary data that happens to begin as a line of the header does
        if not newline:
            raise ValueError(f"{path}: ends inside its header, expected {follows} after it")
        key, value = (part.decode("latin-1").strip() for part in match.groups())
        fields[key.lower()] = value
        offset += len(line) + 1
    return fields, offset


def _integer(path: Path, fields: dict[str, str], key: str, low: int, high: int) -> int | None:
    """Header field as an integer in [low, high], None where the header lacks it."""
    if key not in fields:
        return None
    text = fields[key]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise ValueError(f"{path}: header says {key} {text[:20]!r}, expected {low} to {high}")
    return int(text)


def _guess_version(records: np.ndarray, width: int | None) -> int:
    """1 if the addresses fit into its 18 bits and would lie off the sensor in version 2, else 2."""
    address = records[:: max(1, len(records) // HEAD), 1]
    columns = address & ((1 << ADDRESS_BITS[2][0]) - 1)
    fits = np.all(address < 2 << ADDRESS_BITS[1][1])
    return 1 if fits and np.any(columns >= (width or LARGEST_SENSOR_HW[1])) else 2


def _refuse_implausible(path: Path, records: np.ndarray, version: int) -> None:
    """Raise ValueError unless the leading records of a headerless file look like events.

    Most lie on some sensor, not all on one pixel, and times rise, not only now and then.
    """
    head = decode(records[:HEAD], version)
    height, width = LARGEST_SENSOR_HW
    steps_us = np.diff(head["t"])
    rises = np.count_nonzero(steps_us > 0)
    is_so = {
        "records on a sensor": np.mean((head["x"] < width) & (head["y"] < height)) > 0.5
        if len(head)
        else False,
        "times that rise": rises > len(steps_us) / 50 and rises > 4 * np.sum(steps_us < 0),
        "more than one pixel": len(np.unique(records[:HEAD, 1])) > 1,
    }
    if len(head) == 1 and records.any():
        del is_so["times that rise"], is_so["more than one pixel"]
    if not all(is_so.values()):
        lack = next(name for name, holds in is_so.items() if not holds)
        found = f"has neither a .dat header nor {lack}"
        raise ValueError(f"{path}: {found}, expected a Prophesee .dat recording")


@compiled()
def _count(
    packed: np.ndarray, previous: Any, height: Any, width: Any, y_bit: int, p_bit: int
) -> tuple[Any, Any]:
    """Steps back from the record before, and events outside height x width; packed: uint64 [n].

    All operands are uint64, so that the compiler turns the loop into vector instructions.
    """
    time_mask, address_bit = np.uint64((1 << 32) - 1), np.uint64(32)
    x_mask, y_mask = np.uint64((1 << y_bit) - 1), np.uint64((1 << (p_bit - y_bit)) - 1)
    height, width, y_shift = np.uint64(height), np.uint64(width), np.uint64(32 + y_bit)
    descents, outside = np.uint64((packed[0] & time_mask) < (previous & time_mask)), np.uint64(0)
    for i in range(len(packed)):
        x, y = (packed[i] >> address_bit) & x_mask, (packed[i] >> y_shift) & y_mask
        outside += np.uint64((x >= width) | (y >= height))
    for i in range(1, len(packed)):
        descents += np.uint64((packed[i] & time_mask) < (packed[i - 1] & time_mask))
    return np.int64(descents), np.int64(outside)
