"""`python -m gen1.convert IN.raw OUT_td.dat`: Prophesee RAW (EVT 2, 2.1, 3) -> .dat.

Decoding is faery's (LGPL-3, extra `raw`), loaded here and nowhere else. Where the clock of a real
camera steps back a little, it holds the time; expelliarmus 1.1 takes that for an overflow.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gen1.dat import LARGEST_SENSOR_HW, write_dat_packets
from gen1.spec import EVENT


def convert(
    source: Path | str, target: Path | str, height: int | None = None, width: int | None = None
) -> int:
    """Write the events of a RAW file as a .dat recording; returns how many.

    height, width: sensor size in px for a header that has none; 720x1280 if not given. Raises
    ValueError for a file that is no RAW recording, or if faery is not installed.
    """
    source = Path(source)
    if not source.is_file():
        raise ValueError(f"{source}: no such file, expected a Prophesee RAW recording")
    with source.open("rb") as file:
        head = file.read(6)
    if not head.startswith(b"% "):
        raise ValueError(f"{source}: begins with {head!r}, expected a Prophesee RAW recording")
    try:
        import faery
    except ImportError:
        expected = "expected `pip install 'spikeyolo-gen1[raw]'` before"
        raise ValueError(f"{source}: a RAW recording needs faery, {expected}") from None
    largest_height, largest_width = LARGEST_SENSOR_HW
    fallback = (width or largest_width, height or largest_height)
    n_events = 0

    def packets(stream: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal n_events
        for packet in stream:
            n_events += len(packet)
            yield _as_events(packet)

    try:
        stream = faery.events_stream_from_file(
            source, dimensions_fallback=fallback, file_type="evt"
        )
        found_width, found_height = stream.dimensions()
        write_dat_packets(target, packets(iter(stream)), found_height, found_width)
    except (RuntimeError, OSError) as error:
        found = f"cannot be decoded ({error})"
        raise ValueError(f"{source}: {found}, expected EVT 2, 2.1 or 3") from None
    return n_events


def _as_events(packet: np.ndarray) -> np.ndarray:
    """faery's (t, x, y, on) as EVENT [n]."""
    events = np.empty(len(packet), EVENT)
    for name, theirs in zip("txyp", ("t", "x", "y", "on"), strict=True):
        events[name] = packet[theirs]
    return events


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gen1.convert", description=__doc__)
    parser.add_argument("source", type=Path, help="RAW recording")
    parser.add_argument("target", type=Path, help="recording to write, NAME_td.dat")
    parser.add_argument("--height", type=int, help="sensor height in px if the header has none")
    parser.add_argument("--width", type=int, help="sensor width in px if the header has none")
    arguments = parser.parse_args(argv)
    try:
        n_events = convert(**vars(arguments))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.target}: {n_events} events")
    return 0


if __name__ == "__main__":
    sys.exit(main())
