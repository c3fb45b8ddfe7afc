"""Events in HDF5: RVT's mirror of Gen1 and 1 Mpx (eTraM's layout too), DSEC's, Metavision's.

Sources: RVT (github.com/uzh-rpg/RVT), dsec-det, eTraM and OpenEB, each by its readers' code.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np

from gen1 import ecf
from gen1.dat import MAX_SIDE
from gen1.stream import Piece, Stream

assert hdf5plugin  # its import teaches HDF5 to read Blosc and others
EVENTS_AT_ONCE = 1 << 20
DSEC_HW = (480, 640)
NAMES = tuple("txyp")


def open_hdf5(path: Path) -> Stream:
    """Events of any known layout; ValueError for another, a missing codec, and damage.

    In RVT's layout times that step back become the latest before them, as RVT reads them.
    """
    with reading(path), h5py.File(path, "r", locking=False) as file:
        if "CD/events" in file:
            data = file["CD/events"]
            refuse_missing_codec(path, data, ecf.FILTER)
            _refuse_fields(path, data)
            return Stream(_metavision(path), _geometry(file))
        if "events" not in file:
            found = f"holds {', '.join(sorted(file)[:5]) or 'nothing'}"
            raise ValueError(f"{path}: {found}, expected a group `events` or `CD/events`")
        events = file["events"]
        if isinstance(events, h5py.Dataset):
            _refuse_fields(path, events)
            refuse_missing_codec(path, events)
            size = None
        else:
            _refuse_unequal(path, events)
            size = _stored_size(path, events)
        is_dsec = "t_offset" in file
        offset_us = _number(file["t_offset"]) if is_dsec else 0
    if is_dsec:
        return Stream(_columns(path, offset_us), DSEC_HW)
    return Stream(_columns(path, 0), size, rises=True)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what h5py raises inside the block into one sentence."""
    try:
        yield
    except (OSError, LookupError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot be read ({reason}), expected HDF5 of events") from None


def refuse_missing_codec(path: Path, data: h5py.Dataset, *ours: int) -> None:
    """ValueError if HDF5 cannot decompress a data set, and we cannot either."""
    created = data.id.get_create_plist()
    for number in range(created.get_nfilters()):
        code, _, _, name = created.get_filter(number)
        if code not in ours and not h5py.h5z.filter_avail(code):
            found = f"{data.name} is compressed by filter {code} ({name.decode(errors='replace')})"
            hint = "expected one that hdf5plugin has: install the plugin that its writer used"
            raise ValueError(f"{path}: {found}, {hint}")


def _refuse_fields(path: Path, data: h5py.Dataset) -> None:
    names = data.dtype.names or ()
    if not {*NAMES} <= {*names}:
        found = f"{data.name} has the fields {', '.join(names) or 'none'}"
        raise ValueError(f"{path}: {found}, expected t, x, y and p")


def _refuse_unequal(path: Path, events: h5py.Group) -> None:
    """ValueError if a column is missing, of another length, or of an unknown codec."""
    if missing := [name for name in NAMES if name not in events]:
        raise ValueError(f"{path}: has no events/{missing[0]}, expected events/t, x, y and p")
    for name in NAMES:
        refuse_missing_codec(path, events[name])
    lengths = {name: len(events[name]) for name in NAMES}
    if len({*lengths.values()}) > 1:
        found = ", ".join(f"{n} of {name}" for name, n in lengths.items())
        raise ValueError(f"{path}: holds {found}, expected as many of each")


def _stored_size(path: Path, events: h5py.Group) -> tuple[int, int] | None:
    """Height and width in px, None without them; ValueError for coordinates in parts of a px."""
    divider = _number(events["divider"]) if "divider" in events else 1
    if divider != 1:
        found = f"events/divider is {divider}"
        raise ValueError(f"{path}: {found}, expected 1: coordinates in whole px")
    if "height" not in events or "width" not in events:
        return None
    height, width = _number(events["height"]), _number(events["width"])
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        found = f"says a sensor of {height}x{width} px"
        raise ValueError(f"{path}: {found}, expected sides of 1 to {MAX_SIDE}")
    return height, width


def _number(scalar: h5py.Dataset) -> int:
    return int(np.ravel(scalar[()])[0])


def _geometry(file: h5py.File) -> tuple[int, int] | None:
    """Metavision's `geometry`, "1280x720"."""
    width, _, height = str(_text(file.attrs.get("geometry", ""))).partition("x")
    return (int(height), int(width)) if width.isdigit() and height.isdigit() else None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _columns(path: Path, offset_us: int) -> Iterator[Piece]:
    """Pieces of `events`, one data set a column or one of all; times plus offset_us.

    Whole chunks at a time, so that none is unpacked twice and HDF5 need not keep any.
    """
    with reading(path), h5py.File(path, "r", locking=False, rdcc_nbytes=0) as file:
        events = file["events"]
        times = events if isinstance(events, h5py.Dataset) else events["t"]
        chunk = (times.chunks or (1,))[0]
        total, step = len(times), chunk * max(1, EVENTS_AT_ONCE // chunk)
        for first in range(0, total, step):
            window = slice(first, first + step)
            stored = events[window] if isinstance(events, h5py.Dataset) else None
            piece = columns(
                path, *(events[n][window] if stored is None else stored[n] for n in NAMES)
            )
            if len(piece["t"]) and piece["t"][0] < 0:
                found = f"an event at {piece['t'][0]} us"
                raise ValueError(f"{path}: {found}, expected times of 0 or later")
            yield {**piece, "t": piece["t"] + offset_us} if offset_us else piece


def _metavision(path: Path) -> Iterator[Piece]:
    """Pieces of CD/events, chunk by chunk where only we can decode them."""
    with reading(path), h5py.File(path, "r", locking=False) as file:
        data = file["CD/events"]
        created = data.id.get_create_plist()
        filters = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
        is_ecf = ecf.FILTER in filters
        step = data.chunks[0] if is_ecf else EVENTS_AT_ONCE
        for first in range(0, len(data), step):
            if not is_ecf:
                stored = data[first : first + step]
                yield columns(path, *(stored[name] for name in NAMES))
                continue
            left = len(data) - first
            skipped, chunk = data.id.read_direct_chunk((first,))
            if skipped:
                stored = np.frombuffer(chunk, data.dtype)[:left]
                yield columns(path, *(stored[name] for name in NAMES))
                continue
            try:
                yield ecf.decode_chunk(chunk)[:left]
            except ValueError as error:
                found = f"events from {first} on are damaged: {error}"
                raise ValueError(f"{path}: {found}, expected whole chunks") from None


def columns(path: Path, t: Any, x: Any, y: Any, p: Any) -> dict[str, np.ndarray]:
    """t int64, x and y uint16, p: above 0 is ON; columns and rows beyond uint16 are strays.

    Raises ValueError for values that are not whole numbers, and for a p that is not 0 and 1, or
    -1 and 1.
    """
    t, x, y, p = (
        _whole(path, name, values) for name, values in zip(NAMES, (t, x, y, p), strict=True)
    )
    if len(p) and not (p.min() >= -1 and p.max() <= 1):
        found = f"p from {p.min()} to {p.max()}"
        raise ValueError(f"{path}: {found}, expected 0 and 1, or -1 and 1")
    beyond, pixels = np.iinfo(np.uint16).max, {"x": x, "y": y}
    for name, column in pixels.items():
        if column.dtype != np.uint16:  # what wraps around would land inside the frame
            column = np.where((column < 0) | (column > beyond), beyond, column)
        pixels[name] = np.ascontiguousarray(column, np.uint16)
    return {"t": np.ascontiguousarray(t, np.int64), **pixels, "p": np.ascontiguousarray(p, np.int8)}


def _whole(path: Path, name: str, values: Any) -> np.ndarray:
    """A column of whole numbers, of any type that holds them."""
    column = np.asarray(values)
    is_float = column.dtype.kind == "f" and np.array_equal(column, np.floor(column))
    if column.ndim != 1 or not (column.dtype.kind in "iub" or is_float):
        raise ValueError(f"{path}: {name} is {column.dtype}, expected whole numbers")
    return column.astype(np.int64) if column.dtype.kind in "fb" else column
