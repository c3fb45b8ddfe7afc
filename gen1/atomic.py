"""Write a file so that its final name never holds half of it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4


@contextmanager
def atomic_write(path: Path | str, synced: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary neighbour of path; at the end fsync it and rename it to path.

    synced: False for what need not outlive the process. An exception inside the block removes the
    temporary file and leaves path as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")  # unique on every machine
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if synced:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, content: Any) -> None:
    """Plain data as an indented file, whole or not at all."""
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1).encode())


def make_way(file: str | Path) -> None:
    """Make the directory of a file to write; ValueError if it cannot be written there."""
    file = Path(file)
    make_writable(file.parent)
    if file.is_dir():
        raise ValueError(f"{file}: is a directory, expected the name of a file to write")


def make_writable(folder: str | Path) -> None:
    """Make a directory; ValueError if there can be none or nothing can be written to it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{folder}: cannot be made ({reason}), expected a directory") from None
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder}: cannot be written to, expected a directory of yours")
