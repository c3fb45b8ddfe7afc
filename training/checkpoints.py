"""The last two checkpoints of a run, written while training goes on."""

import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

LAST, PREVIOUS, DAMAGED = "last.pt", "previous.pt", "damaged.pt"
Loaded = TypeVar("Loaded")


def on_host(state: Any) -> Any:
    """A copy of nested data whose tensors lie on the CPU and change no more."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: on_host(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(on_host(value) for value in state)
    return state


class BackgroundWriter:
    """One thread that writes files in order; two may wait, a third waits for the first.

    An error of a write is raised by the next call; `check` does nothing else.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: deque[Future[None]] = deque()

    def submit(self, write: Callable[[], None]) -> None:
        """Run `write` soon; it must not touch what training changes."""
        self.check(at_most=1)
        self._pending.append(self._thread.submit(write))

    def check(self, at_most: int = 2) -> None:
        """Raise the error of a write that failed; wait until so many are left."""
        while self._pending and (self._pending[0].done() or len(self._pending) > at_most):
            self._pending.popleft().result()

    def finish(self) -> None:
        """Wait until everything is on disk."""
        self._thread.shutdown()
        while self._pending:
            self._pending.popleft().result()


def write_last(directory: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make last.pt; the one before becomes previous.pt, at no moment is there none."""
    new = directory / "new.pt"
    write(new)
    if (directory / LAST).exists():
        (directory / LAST).replace(directory / PREVIOUS)
    new.replace(directory / LAST)


def read_last(directory: Path, load: Callable[[Path], Loaded]) -> tuple[Path, Loaded] | None:
    """The newest checkpoint that `load` can read, or None if there was never one.

    A last.pt for which `load` raises ValueError is set aside as damaged.pt, with a warning, and
    previous.pt is read. Raises the ValueError if that does not help.
    """
    last, previous = directory / LAST, directory / PREVIOUS
    if last.exists():
        try:
            return last, load(last)
        except ValueError as error:
            if not previous.exists():
                raise
            before = load(previous)
            last.replace(directory / DAMAGED)
            warnings.warn(f"{error}: continuing from {previous}", stacklevel=2)
            return previous, before
    return (previous, load(previous)) if previous.exists() else None
