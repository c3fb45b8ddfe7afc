"""`python -m gen1.convert IN OUT_td.dat`: recordings of other formats -> .dat.

RAW (EVT 2, 2.1, 3), HDF5 (RVT's and eTraM's, DSEC's, Metavision's), .npy, .npz, .csv, .aedat4.
Events keep the file's order. A clock beyond 2^32 us loses whole multiples of 2^32, by the first
event; DatReader undoes the overflow of the .dat's 32 bits and puts late events into their place.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gen1 import command
from gen1.compiled import compiled
from gen1.dat import ADDRESS_BITS, MAX_SIDE, write_packed
from gen1.hdf5 import open_hdf5
from gen1.raw import open_raw
from gen1.spec import counted
from gen1.stream import Stream
from gen1.tables import open_aedat4, open_array, open_csv

#: Suffix -> what opens such a file.
OPENERS: dict[str, Callable[[Path], Stream]] = {
    ".raw": open_raw,
    **dict.fromkeys((".h5", ".hdf5"), open_hdf5),
    **dict.fromkeys((".npy", ".npz"), open_array),
    **dict.fromkeys((".csv", ".txt"), open_csv),
    ".aedat4": open_aedat4,
}
Y_BIT, P_BIT = ADDRESS_BITS[2]


@compiled()
def pack_inside(
    t: Any,
    x: Any,
    y: Any,
    p: Any,
    origin_us: int,
    height: int,
    width: int,
    latest_us: int,
    out: Any,
) -> tuple[Any, ...]:
    """Write the events inside the frame as version 2 records to out, uint64 [n].

    Times less origin_us, 0 at least, the lower 32 bits of them; p > 0 is ON. With latest_us >= 0
    no time is less than it or one before. Returns how many were written, the largest row and
    column of all, how many times were raised, and the latest.
    """
    y_bit, p_bit = np.uint64(Y_BIT), np.uint64(P_BIT)
    n, top, right, raised = np.int64(0), np.uint16(0), np.uint16(0), np.int64(0)
    latest, rises = np.int64(latest_us), latest_us >= 0
    for i in range(len(t)):
        t_us = t[i]
        if rises:
            raised += np.int64(t_us < latest)
            latest = max(latest, t_us)
            t_us = latest
        address = np.uint64(x[i]) | np.uint64(y[i]) << y_bit | np.uint64(p[i] > 0) << p_bit
        time = np.uint64(max(t_us - origin_us, 0)) & np.uint64(0xFFFFFFFF)
        out[n] = time | address << np.uint64(32)
        n += np.int64((x[i] < width) & (y[i] < height))
        top, right = max(top, y[i]), max(right, x[i])
    return n, top, right, raised, latest


class Converted(NamedTuple):
    """How many events were written, and what is odd, in sentences."""

    n_events: int
    notes: list[str]


class _Cut:
    """Records of a stream, less the events beyond the frame; clock within u32 at the start."""

    def __init__(self, path: Path, stream: Stream, height: int, width: int) -> None:
        self.path, self.stream, self.height, self.width = path, stream, height, width
        self.n_events = self.n_beyond = self.n_raised = self.origin_us = 0
        self.largest_yx = (0, 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        is_first, latest_us = True, 0 if self.stream.rises else -1
        for piece in self.stream.pieces:
            t, x, y, p = (piece[name] for name in "txyp")
            if not len(t):
                continue
            if is_first:
                self.origin_us = int(t[0]) >> 32 << 32
                is_first = False
            records = np.empty(len(t), np.uint64)
            n, top, right, raised, latest_us = pack_inside(
                *(t, x, y, p, self.origin_us, self.height, self.width, latest_us, records)
            )
            self.largest_yx = max(self.largest_yx[0], int(top)), max(self.largest_yx[1], int(right))
            self.n_beyond += len(t) - n
            self.n_events += n
            self.n_raised += raised
            yield records[:n]
        self._refuse_most_beyond()

    def _refuse_most_beyond(self) -> None:
        """A few stray events are noise; more than 1 % beyond the frame is a wrong size."""
        n, beyond = self.n_events + self.n_beyond, self.n_beyond
        if 2 * beyond > n or (beyond > 10 and 100 * beyond > n):
            y, x = self.largest_yx
            found = f"{beyond} of {n} events lie beyond {self.height}x{self.width} px"
            expected = f"expected --height and --width of the sensor (largest row {y}, column {x})"
            raise ValueError(f"{self.path}: {found}, {expected}")


def convert(
    source: Path | str, target: Path | str, height: int | None = None, width: int | None = None
) -> Converted:
    """Write the events of another format as a .dat recording.

    Args:
        source: Recording: RAW, HDF5, .npy, .npz, .csv or .aedat4; anything else is read as RAW.
        target: Recording to write, NAME_td.dat.
        height: Sensor height in px, if not the file's, which may say none (RAW: then 720).
        width: Sensor width in px, likewise (RAW: then 1280).

    Raises ValueError for a file that is no such recording, for more than a few events beyond the
    size, and for a target that cannot be written.
    """
    return spool(Path(source), Path(target), height, width)[0]


def spool(
    source: Path,
    target: Path,
    height: int | None = None,
    width: int | None = None,
    synced: bool = True,
) -> tuple[Converted, int]:
    """As `convert`; also what its times lost, a multiple of 2^32 us.

    synced: False for a target that need not outlive the process.
    """
    if not source.is_file():
        raise ValueError(f"{source}: no such file, expected a recording of events")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target}: is the source itself, expected another name to write")
    stream = OPENERS.get(source.suffix.lower(), open_raw)(source)
    return write_stream(source, stream, target, height, width, synced)


def write_stream(
    source: Path,
    stream: Stream,
    target: Path,
    height: int | None = None,
    width: int | None = None,
    synced: bool = True,
) -> tuple[Converted, int]:
    """As `spool`, of events that were opened already; source: what messages name."""
    said_hw = stream.size_hw
    found_hw = said_hw or stream.guess_hw or (None, None)
    size_hw = height or found_hw[0], width or found_hw[1]
    notes = []
    if said_hw and size_hw != said_hw:
        notes.append(f"header says {_px(said_hw)}, taken as {_px(size_hw)} as given")
    elif not said_hw and not (height and width) and all(size_hw):
        notes.append(
            f"names no sensor size, taken as {_px(size_hw)}; --height, --width say another"
        )
    events = _Cut(source, stream, *(side or MAX_SIDE for side in size_hw))
    try:
        write_packed(target, events, *size_hw, synced)
    except OSError as error:
        found = f"cannot be written ({error.strerror})"
        raise ValueError(f"{target}: {found}, expected a place for a recording") from None
    if events.n_beyond:
        limits = size_hw if all(size_hw) else (MAX_SIDE, MAX_SIDE)
        beyond = counted(events.n_beyond, "events")
        notes.append(f"{beyond} beyond {_px(limits)}, left out")
    if events.n_raised:
        raised = counted(events.n_raised, "events")
        notes.append(f"{raised} stepped back in time, given the latest before")
    return Converted(events.n_events, notes + stream.notes()), events.origin_us


def _px(size_hw: tuple[int | None, int | None]) -> str:
    return f"{size_hw[0]}x{size_hw[1]} px"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""

    def tell(source: str, target: str, **size: int | None) -> None:
        n_events, notes = convert(source, target, **size)
        for note in notes:
            print(f"note: {source}: {note}", file=sys.stderr)
        print(f"{target}: {counted(n_events, 'events')}")

    parser = command.command_line("python -m gen1.convert", __doc__, convert)
    return command.run(parser, tell, argv)


enter = command.door(main)
if __name__ == "__main__":
    enter()
