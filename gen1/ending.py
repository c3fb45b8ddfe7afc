"""How a command ends that cannot go on: one sentence with the remedy, and no process left."""

import multiprocessing
import os
import re
import signal
import sys
import threading
import traceback
from contextlib import suppress
from typing import NoReturn

#: An exception of a loader worker, as torch raises it again in the parent.
OF_WORKER = re.compile(r"Caught (\w+) in DataLoader worker.*\n(?:[\w.]+\.)?\1: (.*)", re.DOTALL)
#: What torch, numpy, CUDA and the system say -> what to tell; {found} is what a group caught.
MEANINGS = (
    (
        r"signal: Bus error|unable to .*</torch_|unable to .*shared memory",
        "shared memory (/dev/shm) is full: raise it (docker run --shm-size), or lower workers",
    ),
    (
        r"DataLoader worker.* (?:signal: ([\w ]+)|exited unexpectedly)",
        "a worker process died ({found}), perhaps for lack of memory: {memory}",
    ),
    (
        r"CUDA(?: error:)? out of memory(?:.*?(tried to allocate [\d.]+ \w+))?|_ALLOC_FAILED",
        "the memory of the GPU is full ({found}): {memory}",
    ),
    (
        r"(?:MemoryError|t allocate memory|not enough memory)"
        r"(?:.*?((?:Unable|tried) to allocate [\d.]+ \w+))?",
        "memory is full ({found}): {memory}",
    ),
    (
        r"No space left|quota exceeded|File too large|unexpected pos",
        "{text}: free space, then give the same command again",
    ),
    (r"Too many open files|of ancdata", "too many open files: raise ulimit -n, or lower workers"),
    (
        r"/gloo/transport|ProcessGroupNCCL|NCCL error",
        "another process of the run died, perhaps for lack of memory: {memory}",
    ),
)


def sentence(error: BaseException, memory: str) -> str:
    """What happened and what to do, `memory` where that ran out; empty for a fault of ours."""
    kind, text = type(error).__name__, str(error)
    worker = OF_WORKER.match(text)
    if worker:
        kind, text = worker[1], worker[2].strip()
    if isinstance(error, ValueError | ChildProcessError):
        return text
    said = f"{kind}: {text} {error.__cause__ or ''}"  # the signal that a worker died of
    for pattern, meaning in MEANINGS:
        if match := re.search(pattern, said, re.DOTALL | re.IGNORECASE):
            found = next(filter(None, match.groups()), "").strip()
            return meaning.format(text=text, memory=memory, found=found).replace(" ()", "")
    if isinstance(error, OSError):
        return text
    return f"a worker failed ({kind}: {text}): --workers 0 shows where" if worker else ""


def fail(error: BaseException, memory: str = "close other programs") -> int:
    """Say on stderr why a command ends, a fault of ours with its traceback; the exit code, 1."""
    with suppress(OSError):  # the log may lie on the disk that is full
        if said := sentence(error, memory):
            print(f"error: {said}", file=sys.stderr, flush=True)
        else:
            traceback.print_exception(error)
    return 1


def end_workers() -> None:
    """Kill what loaders and pools of this process left: it may ignore any lesser signal."""
    workers = multiprocessing.active_children()
    watched = threading.current_thread() is threading.main_thread()
    if watched:  # torch raises an error in the middle of anything when a worker dies
        torch_watch = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()
    if watched:
        signal.signal(signal.SIGCHLD, torch_watch or signal.SIG_DFL)


def leave(code: int) -> NoReturn:
    """End the process; after an error at once, whatever thread still hangs."""
    if code != 1:
        sys.exit(code)
    end_workers()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def prepare_worker(_worker: int) -> None:
    """Let a loader worker leave signals to the parent: torchrun and a terminal send them to all.

    A worker whose parent has died ends by itself.
    """
    sys.excepthook = lambda *_: None  # torch brings errors of samples to the parent
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
