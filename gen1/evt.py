"""Prophesee's RAW streams, decoded in pieces: EVT 2.0 and 2.1, EVT 3.0.

Source: docs.prophesee.ai, "Data Encoding Formats". Times are the camera's own, in file order; only
the counter's overflow (EVT 3: 24 bits of us, EVT 2: 34) is undone, so a late word steps back.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gen1.compiled import compiled
from gen1.spec import EVENT

#: Format -> type of its words and the events that one word holds at most.
WORDS = {"2": ("<u4", 1), "2.1": ("<u8", 32), "3": ("<u2", 12)}
EVENTS_AT_ONCE = 1 << 19
#: What decoding carries from piece to piece: upper time bits (-1: none yet), lower time bits,
#: row (-1: none yet), column of the next vector (-1: none yet), its polarity, events without time.
HIGH, LOW, ROW, COLUMN, POLARITY, LOST = range(6)
#: EVT 2.1: upper time bits rise by less than this, 1 s, from one word that holds them to the next.
RISE = 1 << 14


class EvtStream:
    """Events of the words from byte `offset` of a RAW file, of format "2", "2.1" or "3".

    swapped: EVT 2.1 with the upper half of each word first, as IMX636 sends it; None looks into
    the data. After iteration `lost` counts the events before the first time, row and column,
    `trailing_bytes` those of a truncated last word.
    """

    def __init__(self, path: Path, version: str, offset: int, swapped: bool | None) -> None:
        self.path, self.version, self.offset, self.swapped = path, version, offset, swapped
        self.lost = self.trailing_bytes = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        """Pieces EVENT [n], t in us without overflow. Raises ValueError if reading fails."""
        kind, most = WORDS[self.version]
        state = np.array([-1, 0, -1, -1, 0, 0])
        size = np.dtype(kind).itemsize * (EVENTS_AT_ONCE // most)
        swapped = self.swapped
        for piece in self._pieces(size):
            self.trailing_bytes = len(piece) % np.dtype(kind).itemsize
            words = np.frombuffer(piece, kind, len(piece) // np.dtype(kind).itemsize)
            events = np.empty(len(words) * most, EVENT)
            if self.version == "2.1":
                if swapped is None:
                    swapped = _risen(_swap(words)) > _risen(words)
                n = _decode_21(_swap(words) if swapped else words, events, state)
            else:
                n = (_decode_2 if self.version == "2" else _decode_3)(words, events, state)
            self.lost = int(state[LOST])
            yield events[:n]

    def _pieces(self, size: int) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                while piece := file.read(size):
                    yield piece
        except OSError as error:
            found = f"cannot be read ({error.strerror})"
            raise ValueError(f"{self.path}: {found}, expected a RAW recording") from None


def _swap(words: np.ndarray) -> np.ndarray:
    return words << np.uint64(32) | words >> np.uint64(32)


def _risen(words: np.ndarray) -> tuple[int, int]:
    """How often the upper time bits rise, less how often they jump; how often they are sent."""
    times = words[words >> np.uint64(60) == 8]
    steps = np.diff((times >> np.uint64(32) & np.uint64(0xFFFFFFF)).astype(np.int64))
    jumps = (steps < 0) | (steps >= RISE)
    return int(np.count_nonzero(steps) - 2 * np.count_nonzero(jumps)), len(times)


@compiled()
def _unwrap(known: Any, value: Any, bits: int) -> Any:
    """The number nearest to `known` that ends in the bits of value; value if none is known."""
    if known < 0:
        return value
    step = (value - known) & ((1 << bits) - 1)
    if step >= 1 << (bits - 1):
        step -= 1 << bits
    return max(known + step, 0)


@compiled()
def _put(events: np.ndarray, n: int, t: Any, x: Any, y: Any, p: Any) -> int:
    events[n].t = t
    events[n].x = x
    events[n].y = y
    events[n].p = p
    return n + 1


@compiled()
def _decode_2(words: np.ndarray, events: np.ndarray, state: np.ndarray) -> int:
    """32 bits: type 4, then time's upper 28, or its lower 6, column 11, row 11."""
    n = 0
    for i in range(len(words)):
        word = np.int64(words[i])
        kind = word >> 28
        if kind == 8:
            state[HIGH] = _unwrap(state[HIGH], word & 0xFFFFFFF, 28)
        elif kind < 2 and state[HIGH] < 0:
            state[LOST] += 1
        elif kind < 2:
            t = state[HIGH] << 6 | word >> 22 & 63
            n = _put(events, n, t, word >> 11 & 2047, word & 2047, kind)
    return n


@compiled()
def _decode_21(words: np.ndarray, events: np.ndarray, state: np.ndarray) -> int:
    """64 bits: as EVT 2 in the upper half; the lower half marks which of 32 columns fired."""
    n = 0
    for i in range(len(words)):
        word = np.int64(words[i] >> np.uint64(32))
        mask = np.int64(words[i] & np.uint64(0xFFFFFFFF))
        kind = word >> 28
        if kind == 8:
            state[HIGH] = _unwrap(state[HIGH], word & 0xFFFFFFF, 28)
        elif kind < 2:
            t, x = state[HIGH] << 6 | word >> 22 & 63, word >> 11 & 2047
            while mask:
                if mask & 1 and state[HIGH] < 0:
                    state[LOST] += 1
                elif mask & 1:
                    n = _put(events, n, t, x, word & 2047, kind)
                mask, x = mask >> 1, x + 1
    return n


@compiled()
def _decode_3(words: np.ndarray, events: np.ndarray, state: np.ndarray) -> int:  # noqa: PLR0912
    """16 bits: type 4 and what has changed: time (12 + 12), row, column, or 12 or 8 columns."""
    n = 0
    for i in range(len(words)):
        word = np.int64(words[i])
        kind, value = word >> 12, word & 0xFFF
        if kind == 8:
            high = _unwrap(state[HIGH], value, 12)
            if high != state[HIGH]:  # the lower bits follow; until then they are unknown
                state[LOW] = 0
            state[HIGH] = high
        elif kind == 6:
            state[LOW] = value
        elif kind == 0:
            state[ROW] = value & 2047
        elif kind == 3:
            state[COLUMN], state[POLARITY] = value & 2047, value >> 11
        elif kind == 2:
            if state[HIGH] < 0 or state[ROW] < 0:
                state[LOST] += 1
            else:
                t = state[HIGH] << 12 | state[LOW]
                n = _put(events, n, t, value & 2047, state[ROW], value >> 11)
        elif kind == 4 or kind == 5:  # noqa: PLR1714  (a set is slow here)
            width = 12 if kind == 4 else 8
            mask, x = value & ((1 << width) - 1), state[COLUMN]
            known = state[HIGH] >= 0 and state[ROW] >= 0 and x >= 0
            t = state[HIGH] << 12 | state[LOW]
            while mask:
                if mask & 1 and known:
                    n = _put(events, n, t, x, state[ROW], state[POLARITY])
                elif mask & 1:
                    state[LOST] += 1
                mask, x = mask >> 1, x + 1
            if state[COLUMN] >= 0:
                state[COLUMN] += width
    return n
