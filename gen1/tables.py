"""Events in tables: .npy and .npz of NumPy, .csv, and .aedat4 (through the library faery)."""

import csv
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gen1.hdf5 import EVENTS_AT_ONCE, NAMES, columns
from gen1.stream import Piece, Stream

#: What others call our columns.
ALIASES = {
    "t": ("t", "ts", "timestamp", "time", "t_us"),
    "x": ("x",),
    "y": ("y",),
    "p": ("p", "pol", "polarity", "on"),
}
LINES_AT_ONCE = 1 << 18


def open_array(path: Path) -> Stream:
    """A .npy of fields t, x, y, p or of four such columns (PEDRo), or a .npz of four arrays."""
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                named = {name: arrays[name] for name in arrays.files}
            stored = next(iter(named.values())) if len(named) == 1 else named
        else:
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damaged headers end in many kinds of exceptions
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: is not readable ({reason}), expected events") from None
    table = _columns(path, stored)

    def pieces() -> Iterator[Piece]:
        for first in range(0, len(table[0]), EVENTS_AT_ONCE):
            yield columns(path, *(column[first : first + EVENTS_AT_ONCE] for column in table))

    return Stream(pieces(), None)


def _columns(path: Path, stored: Any) -> list[np.ndarray]:
    """t, x, y, p of what NumPy read; ValueError for another table."""
    names = list(stored) if isinstance(stored, dict) else stored.dtype.names
    if names:
        found = [_named(path, names, column) for column in NAMES]
        table = [stored[name] for name in found]
    elif stored.ndim == 2 and stored.shape[1] == len(NAMES):
        table = list(stored.T)
    else:
        found_shape = f"{stored.dtype} {list(stored.shape)}"
        raise ValueError(f"{path}: holds {found_shape}, expected columns t, x, y, p")
    if len({len(column) for column in table}) > 1:
        raise ValueError(f"{path}: its columns differ in length, expected as many of each")
    return table


def _named(path: Path, names: Any, column: str) -> str:
    """What a table calls one of our columns."""
    lower = {str(name).strip().lower(): name for name in names}
    known = [lower[alias] for alias in ALIASES[column] if alias in lower]
    if not known:
        found = f"has the columns {', '.join(map(str, names))}"
        raise ValueError(f"{path}: {found}, expected t, x, y and p")
    return known[0]


def open_csv(path: Path) -> Stream:
    """Lines of t, x, y, p, in that order or named by a first line; # starts a comment."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = next((text for text in file if text.strip() and text[0] != "#"), "")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no text ({error}), expected lines of t, x, y, p") from None
    delimiter = next((mark for mark in ",;\t" if mark in line), " ")
    words = next(csv.reader([line.strip()], delimiter=delimiter, skipinitialspace=True), [])
    named = bool(words) and not words[0].strip().lstrip("-").replace(".", "", 1).isdigit()
    places = list(range(len(NAMES)))
    if named:
        places = [words.index(_named(path, words, column)) for column in NAMES]
    elif len(words) != len(NAMES):
        found = f"begins with {line.strip()[:40]!r}"
        raise ValueError(f"{path}: {found}, expected lines of t, x, y, p")
    return Stream(_lines(path, delimiter, named, places), None)


def _lines(path: Path, delimiter: str, named: bool, places: list[int]) -> Iterator[Piece]:
    with path.open(encoding="utf-8-sig") as file:
        if named:
            next(text for text in file if text.strip() and text[0] != "#")
        while True:
            try:
                with warnings.catch_warnings():  # of no lines left
                    warnings.simplefilter("ignore", UserWarning)
                    rows = np.loadtxt(
                        file,
                        np.int64,
                        delimiter=None if delimiter == " " else delimiter,
                        usecols=places,
                        max_rows=LINES_AT_ONCE,
                        ndmin=2,
                    )
            except (ValueError, IndexError) as error:
                reason = " ".join(str(error).split())[:200]
                raise ValueError(f"{path}: {reason}, expected lines of t, x, y, p") from None
            if len(rows):
                yield columns(path, *rows.T)
            if len(rows) < LINES_AT_ONCE:
                return


def open_aedat4(path: Path) -> Stream:
    """An AEDAT 4 file; ValueError where faery, an extra, is not installed."""
    try:
        import faery
    except ImportError:
        hint = "pip install -c constraints.txt faery"
        raise ValueError(f"{path}: is AEDAT 4, expected faery to read it: {hint}") from None
    try:
        stream = faery.events_stream_from_file(path)
        width, height = stream.dimensions()
    except Exception as error:  # a library's own kinds
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path}: cannot be read ({reason}), expected AEDAT 4") from None

    def pieces() -> Iterator[Piece]:
        try:
            for events in stream:
                yield columns(path, events["t"], events["x"], events["y"], events["on"])
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path}: cannot be read ({reason}), expected AEDAT 4") from None

    return Stream(pieces(), (height, width))
