"""What tasks of a build run on: this process, a pool that dies with it, or a Dask cluster."""

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ProcessPoolExecutor
from typing import Any

CONNECT_TIMEOUT_S = 10
PATIENCE_S = 5.0
NEEDS_CLUSTER = "needs Dask, expected `pip install 'spikeyolo-gen1[cluster]'` before"


class InlineExecutor(Executor):
    """Runs every task in this process, at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call fn now and return its finished future."""
        future: Future[Any] = Future()
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


def connect_to_cluster(address: str) -> Executor:
    """Workers of a running Dask scheduler, e.g. tcp://host:8786; raises ValueError if none.

    They must see the same paths and have this package installed. If one dies, another repeats
    its tasks.
    """
    try:
        from distributed import Client
    except ImportError:
        raise ValueError(f"--scheduler {address} {NEEDS_CLUSTER}") from None
    try:
        return Client(address, timeout=CONNECT_TIMEOUT_S).get_executor(pure=False)
    except (OSError, ValueError) as error:
        found = f"no Dask scheduler answers ({type(error).__name__})"
        raise ValueError(f"--scheduler {address}: {found}, expected tcp://host:port") from None


def start_slurm_jobs(jobs: int) -> Executor:
    """Submit SLURM jobs that are workers; their size comes from Dask's jobqueue.slurm settings."""
    try:
        from dask_jobqueue.slurm import SLURMCluster
        from distributed import Client
    except ImportError:
        raise ValueError(f"--slurm {jobs} {NEEDS_CLUSTER}") from None
    if not shutil.which("sbatch"):
        raise ValueError(f"--slurm {jobs}: there is no sbatch here, expected a SLURM login node")
    try:
        cluster = SLURMCluster()
    except ValueError:
        expected = "expected jobqueue.slurm cores, memory, ... in ~/.config/dask/jobqueue.yaml"
        raise ValueError(f"--slurm {jobs}: the size of a job is not known, {expected}") from None
    cluster.scale(jobs=jobs)
    return Client(cluster).get_executor(pure=False)


def stop(executor: Executor) -> None:
    """Let go of an executor: what runs may take PATIENCE_S to end, what waits is not begun."""
    if not isinstance(executor, ProcessPoolExecutor):
        executor.shutdown(wait=False)  # cancels what runs on a cluster
        if client := getattr(executor, "_client", None):  # which Dask's executor leaves open
            client.close()
            if client.cluster is not None:
                client.cluster.close()
        return
    workers = [child for child in multiprocessing.active_children() if not child.daemon]
    executor.shutdown(wait=False, cancel_futures=True)
    deadline = time.monotonic() + PATIENCE_S
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
        worker.kill()


def worker_deaths() -> tuple[type[BaseException], ...]:
    """Exceptions of a future that say that its worker, or the way to it, is lost."""
    cluster = sys.modules.get("distributed")
    return (BrokenExecutor, CancelledError, *((cluster.KilledWorker,) if cluster else ()))


def _prepare_worker() -> None:
    """Leave Ctrl-C, which reaches every process, to the parent, and end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "runs in worker processes only"
    parent.join()
    os._exit(1)
