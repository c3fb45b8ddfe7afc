"""`python -m gen1.convert IN.raw OUT_td.dat`: Prophesee RAW (EVT 2, 2.1, 3) -> .dat.

Events keep the file's order. A clock beyond 2^32 us loses whole multiples of 2^32, by the first
event; DatReader undoes the overflow of the .dat's 32 bits and puts late events into their place.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gen1 import command
from gen1.dat import (
    LARGEST_SENSOR_HW,
    MAX_HEADER_BYTES,
    MAX_SIDE,
    header_fields,
    write_dat_packets,
)
from gen1.evt import EvtStream
from gen1.spec import counted

HEADER_LINE = re.compile(rb"% ([A-Za-z]\S*)([^\n]*)")
VERSIONS = {"2": "2", "20": "2", "21": "2.1", "3": "3", "30": "3"}
#: What plugin_name says of the sensor -> height and width in px.
SENSORS_HW = {
    "genx320": (320, 320),
    "imx636": (720, 1280),
    "gen4": (720, 1280),
    "gen3": (480, 640),
}
#: sensor_generation and system_ID -> height and width in px, where the plugin says nothing; ids of
#: OpenEB's device_system_id.h.
GENERATIONS_HW = {"3": (480, 640), "4": (720, 1280), "320": (320, 320)}
SYSTEMS_HW = {
    **dict.fromkeys((21, 23, 25, 28, 29, 33, 34, 35, 40, 41, 151, 153, 161, 162), (480, 640)),
    **dict.fromkeys((26, 30, 31, 32, 39, 46, 48, 49, 50, 58, 154), (720, 1280)),
    **dict.fromkeys((59, 64), (320, 320)),
}


class Converted(NamedTuple):
    """How many events were written, and what is odd, in sentences."""

    n_events: int
    notes: list[str]


class _Cut:
    """Pieces of a stream, less the events beyond the frame; clock within u32 at the start."""

    def __init__(self, stream: EvtStream, height: int, width: int) -> None:
        self.stream, self.height, self.width = stream, height, width
        self.n_events = self.n_beyond = 0
        self.largest_yx = (0, 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        origin_us = None
        for events in self.stream:
            if not len(events):
                continue
            if origin_us is None:
                origin_us = int(events["t"][0]) >> 32 << 32
            top, right = int(events["y"].max()), int(events["x"].max())
            self.largest_yx = max(self.largest_yx[0], top), max(self.largest_yx[1], right)
            if top >= self.height or right >= self.width:
                inside = events[(events["y"] < self.height) & (events["x"] < self.width)]
                self.n_beyond += len(events) - len(inside)
                events = inside
            events["t"] = np.maximum(events["t"] - origin_us, 0) & 0xFFFFFFFF
            self.n_events += len(events)
            yield events
        self._refuse_most_beyond()

    def _refuse_most_beyond(self) -> None:
        """A few stray events are noise; more than 1 % beyond the frame is a wrong size."""
        n, beyond = self.n_events + self.n_beyond, self.n_beyond
        if 2 * beyond > n or (beyond > 10 and 100 * beyond > n):
            y, x = self.largest_yx
            found = f"{beyond} of {n} events lie beyond {self.height}x{self.width} px"
            expected = f"expected --height and --width of the sensor (largest row {y}, column {x})"
            raise ValueError(f"{self.stream.path}: {found}, {expected}")


def convert(
    source: Path | str, target: Path | str, height: int | None = None, width: int | None = None
) -> Converted:
    """Write the events of a RAW file as a .dat recording.

    Args:
        source: RAW recording.
        target: Recording to write, NAME_td.dat.
        height: Sensor height in px, if not the header's, which may say none: then 720.
        width: Sensor width in px, likewise: then 1280.

    Raises ValueError for a file that is no RAW recording of EVT 2, 2.1 or 3, for more than a few
    events beyond the size, and for a target that cannot be written.
    """
    source, target = Path(source), Path(target)
    if not source.is_file():
        raise ValueError(f"{source}: no such file, expected a Prophesee RAW recording")
    if target.exists() and target.samefile(source):
        raise ValueError(f"{target}: is the RAW recording, expected another name to write")
    fields, offset = _read_header(source)
    endianness = re.search(r"endianness=(\w+)", fields.get("format", ""), re.IGNORECASE)
    swapped = endianness[1].lower() == "legacy" if endianness else None
    stream = EvtStream(source, _version(source, fields), offset, swapped)
    said_hw = _size_hw(source, fields)
    found_height, found_width = said_hw or LARGEST_SENSOR_HW
    size_hw = height or found_height, width or found_width
    notes = []
    if said_hw and size_hw != said_hw:
        notes.append(f"header says {_px(said_hw)}, taken as {_px(size_hw)} as given")
    elif not said_hw and not (height and width):
        notes.append(
            f"names no sensor size, taken as {_px(size_hw)}; --height, --width say another"
        )
    events = _Cut(stream, *size_hw)
    try:
        write_dat_packets(target, events, *size_hw)
    except OSError as error:
        found = f"cannot be written ({error.strerror})"
        raise ValueError(f"{target}: {found}, expected a place for a recording") from None
    for count, what in (
        (stream.lost, "events before the first time of the stream"),
        (events.n_beyond, f"events beyond {_px(size_hw)}"),
        (stream.trailing_bytes, "bytes of a truncated last word"),
    ):
        if count:
            notes.append(f"{counted(count, what)}, left out")
    return Converted(events.n_events, notes)


def _px(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]} px"


def _read_header(path: Path) -> tuple[dict[str, str], int]:
    """Header keys in lower case -> value, and the offset of the first word in bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(MAX_HEADER_BYTES)
    except OSError as error:
        found = f"cannot be read ({error.strerror})"
        raise ValueError(f"{path}: {found}, expected a Prophesee RAW recording") from None
    if not head.startswith(b"% "):
        found = f"begins with {head[:6]!r}" if head else "is empty"
        raise ValueError(f"{path}: {found}, expected a Prophesee RAW recording")
    return header_fields(path, head, HEADER_LINE, "events")


def _version(path: Path, fields: dict[str, str]) -> str:
    named = fields.get("format") or fields.get("evt") or ""
    said = named.partition(";")[0].strip()
    version = VERSIONS.get(said.upper().removeprefix("EVT").strip(" _").replace(".", ""))
    if version is None:
        found = f"is of format {said!r}" if said else "names no format"
        raise ValueError(f"{path}: {found}, expected EVT 2, 2.1 or 3")
    return version


def _size_hw(path: Path, fields: dict[str, str]) -> tuple[int, int] | None:
    """Sensor height and width in px, None where the header does not tell."""
    if "geometry" in fields:
        size = re.fullmatch(r"(\d{1,5})\s*[xX]\s*(\d{1,5})", fields["geometry"])
        if not size or not all(1 <= int(side) <= MAX_SIDE for side in size.groups()):
            found = f"header says geometry {fields['geometry'][:20]!r}"
            raise ValueError(f"{path}: {found}, expected WIDTHxHEIGHT in px")
        return int(size[2]), int(size[1])
    sides = [
        re.search(rf"{side}=(\d{{1,5}})", fields.get("format", ""), re.IGNORECASE)
        for side in ("height", "width")
    ]
    if sides[0] and sides[1]:
        return int(sides[0][1]), int(sides[1][1])
    plugin = fields.get("plugin_name", "").lower()
    for name, size_hw in SENSORS_HW.items():
        if name in plugin:
            return size_hw
    generation = fields.get("sensor_generation", "").partition(".")[0]
    system = re.fullmatch(r"\d{1,4}", fields.get("system_id", ""))
    return GENERATIONS_HW.get(generation) or (SYSTEMS_HW.get(int(system[0])) if system else None)


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
