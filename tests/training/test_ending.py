"""What ends a run is said in one sentence, and nothing is left of the run but what it saved."""

import errno
import faulthandler
import json
import multiprocessing
import os
import signal
import subprocess
import time
from pathlib import Path

import h5py
import pytest
import torch
from jaxtyping import config as shape_checks
from torch.utils.data import get_worker_info

import detect_gen1
import eval_gen1
import preprocessing.build
import preprocessing.cluster
import train_gen1
from gen1.ending import sentence
from models import build_model
from models.checkpoint import load_checkpoint, save_checkpoint
from preprocessing.__main__ import main as preprocess
from preprocessing.cache import OutputError, writing
from preprocessing.dataset import HistogramDataset, Loader
from preprocessing.geometry import Geometry
from train_gen1 import Trainer

MEMORY = "lower batch_size"
DIED = ", perhaps for lack of memory: lower batch_size or workers"
#: Lines of torch's own, and of Python about a file, that may stand before the sentence.
OTHERS = ("ERROR: Unexpected bus error encountered in worker.", "warning:")


@pytest.fixture(autouse=True)
def unchecked_shapes(monkeypatch):
    """The signal of a dead worker may come inside a check, which would swallow its error."""
    monkeypatch.setattr(shape_checks, "jaxtyping_disable", True)


@pytest.fixture
def training(small_cache, tmp_path):
    """Arguments of train_gen1.py; the run's directory is tmp_path / "run"."""
    options = f"--cache {small_cache} --output {tmp_path / 'run'} --workers 2 --batch-size 4"
    options += " --model.name spikeyolo-p --model.time-steps 2 --pictures 0 --eval-every 99"
    return [*options.split(), "--epochs", "3"]


@pytest.fixture
def evaluation(small_cache, tmp_path):
    """Arguments of eval_gen1.py."""
    network = build_model("spikeyolo-p", variant="gen1", time_steps=2)
    with h5py.File(small_cache / "train" / "r0.h5", locking=False) as file:
        histogram = json.loads(file.attrs["settings"])
    meta = {"name": "spikeyolo-p", "histogram": histogram, "input": "histogram"}
    save_checkpoint(tmp_path / "x.pt", network.config, network.state_dict(), meta)
    options = f"--checkpoint {tmp_path / 'x.pt'} --cache {small_cache} --output {tmp_path / 'out'}"
    return [*options.split(), "--workers", "2", "--batch-size", "2"]


def ended(main, arguments, capsys):
    """Run a command that must fail; its one sentence."""
    started = time.monotonic()
    assert main(arguments) == 1
    assert time.monotonic() - started < 60
    assert not multiprocessing.active_children()
    lines = capsys.readouterr().err.replace("\0", "").splitlines()
    *_, line = found = [line for line in lines if not line.startswith(OTHERS)]
    assert found == [line], found
    assert line.startswith("error: ")
    return line


def kill(number):
    def die(*_):
        faulthandler.disable()  # pytest's own
        os.kill(os.getpid(), number)

    return die


def throw(error):
    def fail(*_):
        raise error

    return fail


IN_A_WORKER = [
    (throw(ValueError("x.h5: sample 3 is damaged")), "error: x.h5: sample 3 is damaged"),
    (throw(KeyError("frames")), "a worker failed (KeyError: 'frames'): --workers 0 shows where"),
    (throw(OSError(errno.EIO, "Input/output error")), "Input/output error"),
    (throw(MemoryError()), "memory is full: lower batch_size or workers"),
    (lambda *_: torch.empty(1 << 50), "memory is full (tried to allocate"),
    (kill(signal.SIGKILL), DIED),
    (kill(signal.SIGBUS), "shared memory (/dev/shm) is full: raise it (docker run --shm-size)"),
    (lambda *_: os._exit(3), DIED),
]


@pytest.mark.slow
@pytest.mark.parametrize(("happens", "said"), IN_A_WORKER)
def test_what_happens_in_a_loader_worker_ends_the_run(training, monkeypatch, capfd, happens, said):
    read = HistogramDataset._read

    def once(dataset, recording, row):
        if get_worker_info() and get_worker_info().id == 1:
            happens()
        return read(dataset, recording, row)

    monkeypatch.setattr(HistogramDataset, "_read", once)
    assert said in ended(train_gen1.main, training, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("happens", [0, 5])
def test_what_happens_in_a_loader_worker_ends_an_evaluation(
    evaluation, monkeypatch, capfd, happens
):
    happens, said = IN_A_WORKER[happens]
    monkeypatch.setattr(HistogramDataset, "_read", happens)
    assert said in ended(eval_gen1.main, evaluation, capfd)


@pytest.mark.slow
def test_samples_that_do_not_fit_into_shared_memory_end_the_run(training, monkeypatch, capfd):
    """In the worker's main thread: torch's own thread loses the error, and the run waits."""
    full = "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device"
    monkeypatch.setattr(torch.Tensor, "share_memory_", throw(RuntimeError(f"{full} (28)")))
    monkeypatch.setattr(HistogramDataset, "__init__", unshared(HistogramDataset.__init__))
    assert "error: shared memory (/dev/shm) is full" in ended(train_gen1.main, training, capfd)


def unshared(init):
    """The data set's own number in shared memory is left where it is."""

    def wrapped(*arguments, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "share_memory_", lambda tensor: tensor)
            init(*arguments, **options)

    return wrapped


def test_workers_leave_sigterm_to_the_parent(small_cache, monkeypatch):
    """torchrun sends it to all: the step, or the scoring, needs its samples."""
    read = HistogramDataset._read

    def signalled(*arguments):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        return read(*arguments)

    monkeypatch.setattr(HistogramDataset, "_read", signalled)
    dataset = HistogramDataset(small_cache, "val", Geometry(downsample=4))
    assert [len(b.times_us) for b in Loader(dataset, [[0, 1], [2]], 1)] == [2, 1]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has"),
            "error: the memory of the GPU is full (Tried to allocate 20.00 GiB): lower batch_size",
        ),
        (MemoryError("Unable to allocate 3.2 GiB for an array"), "memory is full (Unable to all"),
    ],
)
def test_no_memory_in_a_step_ends_the_run(training, monkeypatch, capfd, error, said):
    monkeypatch.setattr(Trainer, "step", throw(error))
    assert said in ended(train_gen1.main, training, capfd)


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a disk of 100 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("eval_every", "room_bytes", "where"),
    [("1", 1 << 20, "new.pt"), ("99", 0, "metrics.csv"), ("99", 4096, "tensorboard")],
)
def test_a_disk_that_fills_up_leaves_the_last_checkpoint(
    training, small_disk, monkeypatch, capfd, eval_every, room_bytes, where
):
    output = small_disk / "run"
    training += ["--output", str(output), "--eval-every", eval_every, "--workers", "0"]
    train_epoch = Trainer.train_epoch

    def fill(trainer):
        figures = train_epoch(trainer)
        if trainer.epoch == 1:
            trainer.files.check(at_most=0)
            figures |= dict.fromkeys(map(str, range(200)), 0.0)  # more than a block of events
            filler, free = small_disk / "filler", os.statvfs(small_disk)
            filler.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - room_bytes)))
        return figures

    monkeypatch.setattr(Trainer, "train_epoch", fill)
    line = ended(train_gen1.main, training, capfd)
    assert f"{where}: cannot be written (No space left on device): free space, then" in line
    assert load_checkpoint(output / "last.pt").training["epoch"] == 1
    assert not list(output.rglob("*.tmp"))


def test_a_full_disk_is_named_whatever_torch_makes_of_it(tmp_path):
    said = r"x\.pt: cannot be written \(No space left on device\)"
    with (
        Path("/dev/full").open("wb", buffering=0) as full,
        pytest.raises(OutputError, match=said),
        writing(tmp_path / "x.pt"),
    ):
        torch.save({"weights": torch.zeros(1 << 20)}, full)


def test_a_fault_of_ours_shows_its_traceback(training, monkeypatch, capsys):
    monkeypatch.setattr(Trainer, "step", throw(KeyError("bug")))
    assert train_gen1.main([*training, "--workers", "0"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ValueError("a.dat: No space left for MemoryError"),
            "a.dat: No space left for MemoryError",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "a"), "free space, then give the same"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a"), "free space, then give the same"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), f"memory is full: {MEMORY}"),
        (OSError(errno.EMFILE, "Too many open files"), "raise ulimit -n, or lower workers"),
        (PermissionError(errno.EACCES, "Permission denied", "/home/igloo/x"), "Permission denied"),
        (RuntimeError("CUDA error: out of memory"), f"memory of the GPU is full: {MEMORY}"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "memory of the GPU is full"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling"), "memory of the GPU is full"),
        (RuntimeError("[/x/gloo/transport/tcp/pair.cc:1] Connection closed by peer"), "another pr"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            "died (Killed), ",
        ),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "process died, perh"),
        (RuntimeError("a fault of ours"), ""),
    ],
)
def test_errors_in_words(error, said):
    found = sentence(error, MEMORY)
    assert said in found if said else found == ""
    assert "()" not in found


def test_preprocessing_and_detection_end_so_too(small_cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(preprocessing.build, "build_recording", throw(MemoryError()))
    recordings = small_cache.parent / "recordings"
    arguments = ["--input", str(recordings), "--output", str(tmp_path / "cache")]
    assert preprocess(arguments) == 1
    assert "error: memory is full: lower --workers" in capsys.readouterr().err
    monkeypatch.setattr(detect_gen1, "run", throw(torch.OutOfMemoryError("CUDA out of memory.")))
    assert detect_gen1.main(["x_td.dat"]) == 1
    assert "error: the memory of the GPU is full: give a shorter time" in capsys.readouterr().err


def test_a_pool_that_does_not_end_is_ended(monkeypatch):
    monkeypatch.setattr(preprocessing.cluster, "PATIENCE_S", 0.1)
    executor = preprocessing.cluster.make_executor(2)
    futures = [executor.submit(time.sleep, 60) for _ in range(3)]
    while not futures[0].running():
        time.sleep(0.01)
    preprocessing.cluster.stop(executor)
    deadline = time.monotonic() + 5
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not multiprocessing.active_children()
