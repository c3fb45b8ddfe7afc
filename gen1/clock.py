"""Put the times of a recording right: impossible ones left out, late ones sorted, u32 wraps.

Up to FEW events in a row are impossible if most of the NEIGHBOURS before them and most of those
after them are earlier, or later, by more than NEAR_US; so are a few at either end of a file, beyond
a silence longer than all the rest. Others may be late by NEAR_US anywhere, or by LATE_US and
LOOK_BACK events where they fill a hole in time. What is later still, a clock wrote that was set
back: refused. A step back by more than 2^31 us is the u32 counter wrapping around.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gen1.compiled import compiled

#: Events per entry of the index of times.
BLOCK = 65_536
NEIGHBOURS = 16
NEAR_US = 100_000
LATE_US = 2_000_000
LOOK_BACK = 1 << 20
#: Events in a row that may be impossible.
FEW = NEIGHBOURS // 2
TIME = np.uint64((1 << 32) - 1)

# State of _follow: the latest time, wraps, events moved, zeros in a row, and the late run that is
# open: its events, the first one's index, and its least and greatest time.
LATEST, WRAPS, MOVED, ZEROS, RUN, RUN_FIRST, RUN_LEAST, RUN_MOST = range(8)
SET_BACK, FILLED = 1, 2


@dataclass(frozen=True)
class Clock:
    """The true times of a recording, in what bounded memory can hold.

    Per block of BLOCK events: carried_us and wraps, the latest time and the wraps before it (one
    more entry than blocks), least_us, the least time in it or after it. left_out: indices of
    impossible events, ascending; moved: events that came after later ones.
    """

    carried_us: np.ndarray
    wraps: np.ndarray
    least_us: np.ndarray
    left_out: np.ndarray
    moved: int

    def before(self, packed: np.ndarray, t_us: int) -> int:
        """How many events, impossible ones aside, are earlier than t_us."""
        first = int(np.searchsorted(self.carried_us[1:], t_us))
        index = min(first * BLOCK, len(packed))
        times_us, _ = self._times(packed, first, t_us)
        earlier = int(np.count_nonzero(times_us < t_us))
        return index - int(np.searchsorted(self.left_out, index)) + earlier

    def select(
        self, packed: np.ndarray, start_us: int, end_us: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Times int64 [n] and records uint64 [n] of [start_us, end_us), in order of time."""
        first = int(np.searchsorted(self.carried_us[1:], start_us))
        times_us, rows = self._times(packed, first, end_us)
        wanted = (times_us >= start_us) & (times_us < end_us)
        times_us, rows = times_us[wanted], rows[wanted]
        order = np.argsort(times_us, kind="stable")
        return times_us[order], rows[order]

    def _times(self, packed: np.ndarray, block: int, end_us: int) -> tuple[np.ndarray, np.ndarray]:
        """Times and records from a block on, as far as any are earlier than end_us."""
        first, last = block * BLOCK, int(np.searchsorted(self.least_us, end_us)) * BLOCK
        rows = packed[first : max(first, last)]
        some = np.searchsorted(self.left_out, [first, first + len(rows)])
        kept = np.ones(len(rows), bool)
        kept[self.left_out[slice(*some)] - first] = False
        rows = rows[kept]
        return _extend(rows, self.carried_us[block], self.wraps[block]), rows


def read_clock(path: Path, packed: np.ndarray) -> Clock:
    """The times of records uint64 [n], the time in the low half.

    Raises ValueError naming path if the clock was set back for good or zeros fill the file.
    """
    n = len(packed)
    found = np.empty(max(min(FEW, n // 2), n // 100) + 1, np.int64)
    count = _find_strays(packed, found)
    left_out = np.unique(np.append(found[:count], far_ends(packed, found[:count])))
    if len(left_out) >= len(found):
        found_there = f"{len(left_out)} events or more of {n} have impossible times"
        raise ValueError(f"{path}: {found_there}, expected times that rise")
    n_blocks = -(-n // BLOCK)
    carried_us, wraps = np.full(n_blocks + 1, -1), np.zeros(n_blocks + 1, np.int64)
    least_us = np.full(n_blocks, np.iinfo(np.int64).max)
    state = np.zeros(8, np.int64)
    state[LATEST] = -1
    fault, index, t_us = _follow(packed, left_out, carried_us, wraps, least_us, state)
    if fault == FILLED:
        found_there = f"is filled with zeros from about event {index} of {n} on"
        raise ValueError(f"{path}: {found_there}, expected events: it was not copied whole")
    if fault == SET_BACK:
        found_there = f"clock set back from {state[LATEST]} to {t_us} us at event {index} of {n}"
        raise ValueError(f"{path}: {found_there}, expected times that rise")
    least_us = np.minimum.accumulate(least_us[::-1])[::-1]
    return Clock(carried_us, wraps, least_us, left_out, int(state[MOVED]))


def far_ends(packed: np.ndarray, left_out: np.ndarray | tuple[()] = ()) -> np.ndarray:
    """Indices of up to FEW events before the first, or after the last, silence that is longer
    than LATE_US and than all the rest lasts: impossible times, int64 [k]. Those left out aside.
    """
    ends, looked_at = 4 * NEIGHBOURS, len(packed)
    if looked_at < ends:
        return np.empty(0, np.int64)
    first = np.setdiff1d(np.arange(ends), left_out)[: FEW + 1]
    last = np.setdiff1d(np.arange(looked_at - ends, looked_at), left_out)[-FEW - 1 :]
    head, tail = ((packed[index] & TIME).astype(np.int64) for index in (first, last))
    rest_us = np.maximum(LATE_US, (tail[0] - head[1:]) % (1 << 32))
    before = int(np.append(np.flatnonzero(_gaps_us(head) > rest_us), -1).max()) + 1
    rest_us = np.maximum(LATE_US, (tail[:-1] - head[-1]) % (1 << 32))
    after = int(np.append(np.flatnonzero(_gaps_us(tail) > rest_us), len(tail)).min()) + 1
    return np.append(first[:before], last[after:])


def _gaps_us(stored_us: np.ndarray) -> np.ndarray:
    """From each stored time to the next, int64 [n - 1]; over a wrap, as after it."""
    gaps_us = np.diff(stored_us)
    return np.where(gaps_us < -(1 << 31), gaps_us + (1 << 32), gaps_us)


@compiled()
def _next_time(raw_us: Any, latest_us: int, wraps: int) -> tuple[Any, int]:
    """Time of a stored time, and the wraps so far."""
    time_us = np.int64(raw_us) + (wraps << 32)
    if latest_us - time_us > 1 << 31:
        return time_us + (1 << 32), wraps + 1
    if wraps > 0 and 0 <= latest_us - (time_us - (1 << 32)) <= LATE_US:
        return time_us - (1 << 32), wraps  # a late event from before the wrap
    return time_us, wraps


@compiled(nogil=True)
def _extend(packed: np.ndarray, latest_us: int, wraps: int) -> np.ndarray:
    """Times of records uint64 [n], given the state before the first of them, int64 [n]."""
    times_us = np.empty(len(packed), np.int64)
    for i in range(len(packed)):
        times_us[i], wraps = _next_time(np.uint32(packed[i]), latest_us, wraps)
        latest_us = max(latest_us, times_us[i])
    return times_us


@compiled()
def _later_by(a: Any, b: Any) -> np.int64:
    """By how many us record a is later than b; the wrap does not matter."""
    return np.int64(np.int32(np.uint32(np.uint32(a) - np.uint32(b))))


@compiled(nogil=True)
def _find_strays(packed: np.ndarray, found: np.ndarray) -> int:
    """Write the indices of impossible events to found, as many as fit; returns how many.

    A time off the line makes a step back, at it or after it: only there neighbours are asked.
    """
    count = asked = 0
    for i in range(1, len(packed)):
        if _later_by(packed[i], packed[i - 1]) < -NEAR_US:
            last = min(i + NEIGHBOURS, len(packed))
            for k in range(max(asked, i - NEIGHBOURS), last):
                if count < len(found) and is_stray(packed, k):
                    found[count] = k
                    count += 1
            asked = last
    return count


@compiled(nogil=True)
def is_stray(packed: np.ndarray, k: int) -> bool:
    """Whether event k is one of at most FEW in a row that lie off the line on the same side.

    Where the file has nothing before them, or after them, only a step back gives them away.
    """
    first = last = k
    while first > 0 and abs(_later_by(packed[k], packed[first - 1])) <= NEAR_US:
        first -= 1
        if last - first >= FEW:
            return False
    while last + 1 < len(packed) and abs(_later_by(packed[k], packed[last + 1])) <= NEAR_US:
        last += 1
        if last - first >= FEW:
            return False
    before, after = packed[max(0, first - NEIGHBOURS) : first], packed[last + 1 :][:NEIGHBOURS]
    for sign in (1, -1):
        earlier = later = np.int64(0)
        for row in before:
            earlier += sign * _later_by(packed[k], row) > NEAR_US
        for row in after:
            later += sign * _later_by(packed[k], row) > NEAR_US
        agree = 2 * earlier > len(before) or (len(before) == 0 and sign > 0)
        if agree and (2 * later > len(after) or (len(after) == 0 and sign < 0)):
            return True
    return False


@compiled(nogil=True)
def _follow(
    packed: np.ndarray,
    left_out: np.ndarray,
    carried_us: np.ndarray,
    wraps: np.ndarray,
    least_us: np.ndarray,
    state: np.ndarray,
) -> tuple[int, int, int]:
    """Fill in the arrays of a Clock; returns (0, 0, 0), or a fault, its event and its time."""
    skip = 0
    for i in range(len(packed)):
        block = i // BLOCK
        if i % BLOCK == 0:
            carried_us[block], wraps[block] = state[LATEST], state[WRAPS]
        latest_us = state[LATEST]
        state[ZEROS] = state[ZEROS] + 1 if packed[i] == 0 and latest_us > 0 else 0
        if state[ZEROS] > FEW:
            return FILLED, i - FEW, 0
        if skip < len(left_out) and left_out[skip] == i:
            skip += 1
            continue
        t_us, state[WRAPS] = _next_time(np.uint32(packed[i]), latest_us, state[WRAPS])
        state[MOVED] += t_us < latest_us
        least_us[block] = min(least_us[block], t_us)
        if latest_us - t_us > NEAR_US:
            if state[ZEROS] and (packed[i : i + FEW + 1] == 0).sum() > FEW:
                continue  # that many zeros are named for what they are
            if latest_us - t_us > LATE_US or state[RUN] == LOOK_BACK:
                return SET_BACK, i, t_us
            if state[RUN] == 0:
                state[RUN_FIRST], state[RUN_LEAST], state[RUN_MOST] = i, t_us, t_us
            state[RUN] += 1
            state[RUN_LEAST] = min(state[RUN_LEAST], t_us)
            state[RUN_MOST] = max(state[RUN_MOST], t_us)
            continue
        if state[RUN] and not _fills_a_hole(packed, state):
            return SET_BACK, state[RUN_FIRST], state[RUN_LEAST]
        state[RUN] = 0
        state[LATEST] = max(latest_us, t_us)
    carried_us[-1], wraps[-1] = state[LATEST], state[WRAPS]
    ends_before_it_began = state[RUN] and state[RUN_LEAST] < np.int64(np.uint32(packed[0]))
    if state[RUN] and (ends_before_it_began or not _fills_a_hole(packed, state)):
        return SET_BACK, state[RUN_FIRST], state[RUN_LEAST]
    return 0, 0, 0


@compiled(nogil=True)
def _fills_a_hole(packed: np.ndarray, state: np.ndarray) -> bool:
    """Whether hardly any of the LOOK_BACK events before the late run share its stretch of time."""
    first = max(0, state[RUN_FIRST] - LOOK_BACK)
    least = np.uint32(state[RUN_LEAST])
    if first > 0 and _later_by(least, packed[first]) < 0:
        return False
    length = np.uint32(state[RUN_MOST] - state[RUN_LEAST])
    there = np.int64(0)
    for i in range(first, state[RUN_FIRST]):
        there += np.uint32(np.uint32(packed[i]) - least) <= length
    return 10 * there <= state[RUN]
