"""Where the tasks of a build run: in this process or in a pool that dies with it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any


class InlineExecutor(Executor):
    """Runs every task in this process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Call fn now and return its finished future."""
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def make_executor(workers: int) -> Executor:
    """This process for 0 or 1 workers, else a pool; raises ValueError below 0."""
    if workers < 0:
        raise ValueError(f"--workers is {workers}, expected 0 or more processes")
    if workers <= 1:
        return InlineExecutor()
    return ProcessPoolExecutor(workers, initializer=_prepare_worker)


def _prepare_worker() -> None:
    """Leave Ctrl-C, which reaches every process, to the parent, and end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in worker processes only"
    parent.join()
    os._exit(1)
