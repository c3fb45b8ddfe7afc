"""Prophesee RAW files: their header, and the stream of events behind it."""

import re
from pathlib import Path

from gen1.dat import LARGEST_SENSOR_HW, MAX_HEADER_BYTES, MAX_SIDE, header_fields
from gen1.evt import EvtStream
from gen1.spec import counted
from gen1.stream import Stream

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


def open_raw(path: Path) -> Stream:
    """Events of EVT 2, 2.1 or 3; ValueError for a file that is no such recording."""
    fields, offset = _read_header(path)
    endianness = re.search(r"endianness=(\w+)", fields.get("format", ""), re.IGNORECASE)
    swapped = endianness[1].lower() == "legacy" if endianness else None
    events = EvtStream(path, _version(path, fields), offset, swapped)

    def notes() -> list[str]:
        lost = {
            "events before the first time of the stream": events.lost,
            "bytes of a truncated last word": events.trailing_bytes,
        }
        return [f"{counted(n, what)}, left out" for what, n in lost.items() if n]

    return Stream(events, _size_hw(path, fields), notes, LARGEST_SENSOR_HW)


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
