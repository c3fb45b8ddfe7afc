"""Metavision's codec of events in HDF5 chunks (ECF, filter 36559): decoding.

Source: https://github.com/prophesee-ai/hdf5_ecf (the format; this decoder is our own).
"""

from typing import Any

import numpy as np

from gen1.compiled import compiled
from gen1.spec import EVENT

FILTER = 36559
MOST = 65_535  # events of a chunk
HEAD_BYTES = 12


def decode_chunk(chunk: bytes) -> np.ndarray:
    """The events of a chunk, EVENT [n]; ValueError if it is damaged."""
    data = np.frombuffer(chunk, np.uint8)
    count = int.from_bytes(chunk[:4], "little") >> 2
    if len(data) < HEAD_BYTES or count > MOST:
        raise ValueError(f"a chunk of {len(data)} bytes for {count} events")
    events = np.zeros(count, EVENT)
    columns = [np.zeros(count, np.int64) for _ in "txyp"]
    if count and not _decode(data, *columns):
        raise ValueError("a chunk that ends before its events do")
    for name, column in zip("txyp", columns, strict=True):
        events[name] = column
    return events


@compiled()
def _u2(data: np.ndarray, at: int) -> Any:
    return np.int64(data[at]) | np.int64(data[at + 1]) << 8


@compiled()
def _u4(data: np.ndarray, at: int) -> Any:
    return _u2(data, at) | _u2(data, at + 2) << 16


@compiled()
def _decode(data: np.ndarray, t: Any, x: Any, y: Any, p: Any) -> bool:
    """Fill the columns; False if the data end before."""
    packed_yxp, packed_xp = data[0] & 2, data[0] & 1
    at = _times(data, t)
    if at < 0:
        return False
    if packed_yxp:
        return _triples(data, at, x, y, p)
    at = _rows(data, at, y)
    if at < 0:
        return False
    if packed_xp:
        return _pairs(data, at, x, p)
    at = _columns(data, at, x)
    return at >= 0 and _polarities(data, at, p)


@compiled()
def _times(data: np.ndarray, t: Any) -> int:
    """Steps of time, each with how many events have it; where the rest begins, -1 for nowhere."""
    now, at, done, end = np.int64(0), 12, 0, len(data)
    for byte in range(8):
        now |= np.int64(data[4 + byte]) << (8 * byte)
    while done < len(t):
        pause, shift = np.int64(0), 0
        while at < end and data[at] >> 4 == 15:
            pause |= np.int64(data[at] & 15) << shift
            shift, at = shift + 4, at + 1
        now += pause
        if at >= end:
            return -1
        step, count = data[at] >> 4, int(data[at] & 15)
        now += step
        at += 1
        if count == 15:
            if at + 2 > end:
                return -1
            count, at = _u2(data, at), at + 2
        if done + count > len(t):
            return -1
        t[done : done + count] = now
        done += count
    return at


@compiled()
def _triples(data: np.ndarray, at: int, x: Any, y: Any, p: Any) -> bool:
    """Four events in three words of four bytes: row, column and polarity of each."""
    for first in range(0, len(x), 4):
        if at + 12 > len(data):
            return False
        a, b, c = _u4(data, at), _u4(data, at + 4), _u4(data, at + 8)
        at += 12
        values = (
            a >> 8,
            (a & 255) | (b >> 16) << 8,
            (b & 65535) | (c >> 24) << 16,
            c & 0xFFFFFF,
        )
        for k in range(min(4, len(x) - first)):
            value = values[k]
            y[first + k], x[first + k] = value >> 12 & 2047, value >> 1 & 2047
            p[first + k] = value & 1
    return True


@compiled()
def _rows(data: np.ndarray, at: int, y: Any) -> int:
    """Rows, each with how many events in turn have it."""
    done = 0
    while done < len(y):
        if at + 2 > len(data):
            return -1
        word, at = _u2(data, at), at + 2
        count = word & 31
        if count == 31:
            if at + 2 > len(data):
                return -1
            count, at = _u2(data, at), at + 2
        if done + count > len(y):
            return -1
        y[done : done + count] = word >> 5
        done += count
    return at


@compiled()
def _pairs(data: np.ndarray, at: int, x: Any, p: Any) -> bool:
    """Four events in three words of two bytes: column and polarity of each."""
    for first in range(0, len(x), 4):
        if at + 6 > len(data):
            return False
        a, b, c = _u2(data, at), _u2(data, at + 2), _u2(data, at + 4)
        at += 6
        values = (a >> 4, (a & 15) | (b >> 8) << 4, (b & 255) | (c >> 12) << 8, c & 4095)
        for k in range(min(4, len(x) - first)):
            x[first + k], p[first + k] = values[k] >> 1, values[k] & 1
    return True


@compiled()
def _columns(data: np.ndarray, at: int, x: Any) -> int:
    """A column, and which of the five after it have an event as well."""
    done = 0
    while done < len(x):
        if at + 2 > len(data):
            return -1
        word, at = _u2(data, at), at + 2
        x[done] = word >> 5
        done += 1
        for j in range(5):
            if word >> (4 - j) & 1:
                if done == len(x):
                    return -1
                x[done] = (word >> 5) + 1 + j
                done += 1
    return at


@compiled()
def _polarities(data: np.ndarray, at: int, p: Any) -> bool:
    """Polarities, each with how many events in turn have it."""
    done = 0
    while done < len(p):
        if at >= len(data):
            return False
        value, count = data[at] >> 7, int(data[at] & 127)
        at += 1
        if count == 127:
            if at + 2 > len(data):
                return False
            count, at = _u2(data, at), at + 2
        if done + count > len(p):
            return False
        p[done : done + count] = value
        done += count
    return True
