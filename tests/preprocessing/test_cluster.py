"""The same build on a real Dask cluster, one of whose workers is killed in the middle."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

import preprocessing.build
import preprocessing.cluster
from gen1.recordings import list_recordings
from preprocessing.__main__ import main
from preprocessing.build import build
from preprocessing.cluster import (
    InlineExecutor,
    connect_to_cluster,
    make_executor,
    start_slurm_jobs,
    stop,
)
from preprocessing.histogram import HistogramSettings

dask = pytest.importorskip("dask")
distributed = pytest.importorskip("distributed")

SETTINGS = HistogramSettings(time_steps=2, downsample=4)


@pytest.fixture(autouse=True)
def time_limit():
    """A cluster that never starts working interrupts the test instead of waiting for ever."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(120)
    yield
    signal.alarm(0)


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes and a scheduler."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster


def contents(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in cache.rglob("*.*")}


def link_copies(data: Path, n: int) -> None:
    """Make the recording r0 appear n times."""
    for i in range(1, n):
        for suffix in ("td.dat", "bbox.npy"):
            os.link(data / "train" / f"r0_{suffix}", data / "train" / f"r{i}_{suffix}")


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_repeats_nothing(tree, tmp_path, cluster):
    data = tree(train=1)
    link_copies(data, 60)
    recordings = list_recordings(data)
    executor = connect_to_cluster(cluster.scheduler_address)
    with distributed.Client(cluster) as client:
        pids = list(client.run(os.getpid).values())
    outcomes = []
    for outcome in build(recordings, tmp_path / "cache", SETTINGS, executor, in_flight=60):
        outcomes.append(outcome)
        if len(outcomes) == 5:
            os.kill(pids[0], signal.SIGKILL)
    stop(executor)
    names = Counter(outcome.recording.name for outcome in outcomes)
    assert names == {recording.name: 1 for recording in recordings}
    assert not any(outcome.error for outcome in outcomes)
    list(build(recordings, tmp_path / "undisturbed", SETTINGS, InlineExecutor()))
    assert contents(tmp_path / "cache") == contents(tmp_path / "undisturbed")
    assert main(["verify", str(tmp_path / "cache"), "--deep"]) == 0


def test_the_command_line_works_on_a_cluster(tree, tmp_path, cluster, capsys):
    data, cache = tree(train=3, val=1), tmp_path / "cache"
    (data / "train" / "r1_bbox.npy").write_bytes(b"not an array")
    command = ["--input", str(data), "--output", str(cache)]
    assert main([*command, "--scheduler", cluster.scheduler_address]) == 1
    output = capsys.readouterr()
    assert "3 recordings (0 already done), 12 windows" in output.out
    assert "error: 1 of 4 recordings could not be used" in output.err
    assert main([*command, "--scheduler", cluster.scheduler_address]) == 1
    assert "3 recordings (3 already done)" in capsys.readouterr().out


def test_a_recording_that_kills_every_worker_ends_the_run_in_a_sentence(
    tree, tmp_path, cluster, monkeypatch, capsys
):
    data = tree(train=1)
    monkeypatch.setattr(preprocessing.build, "_update", lambda *_: os.kill(os.getpid(), 9))
    command = ["--input", str(data), "--output", str(tmp_path / "cache")]
    with distributed.Client(cluster) as client:
        client.run_on_scheduler(
            lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 0)
        )
    assert main([*command, "--scheduler", cluster.scheduler_address]) == 1
    assert "error: a worker process died" in capsys.readouterr().err


def test_clusters_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(preprocessing.cluster, "CONNECT_TIMEOUT_S", 0.2)
    with pytest.raises(ValueError, match=r"tcp://127.0.0.1:1: no Dask scheduler answers"):
        connect_to_cluster("tcp://127.0.0.1:1")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="--slurm 3: there is no sbatch here"):
        start_slurm_jobs(3)
    with pytest.raises(ValueError, match="--workers is -1"):
        make_executor(-1)


FAKE_SLURM = {  # jobs are processes of this machine
    "sbatch": """#!/bin/bash
cp "$1" "$0.job"
setsid bash "$0.job" > "$0.log" 2>&1 &
echo "Submitted batch job $!"
""",
    "scancel": """#!/bin/bash
kill -- -"$1"
""",
}


@pytest.mark.slow
def test_slurm_jobs_are_submitted_and_do_the_work(tree, tmp_path, monkeypatch, capsys):
    pytest.importorskip("dask_jobqueue")
    for name, script in FAKE_SLURM.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    command = ["--input", str(tree(train=3)), "--output", str(tmp_path / "cache"), "--slurm", "1"]
    assert main(command) == 1
    assert "the size of a job is not known, expected jobqueue.slurm" in capsys.readouterr().err
    job = {"cores": 1, "memory": "1GB", "interface": "lo"}
    with dask.config.set({f"jobqueue.slurm.{name}": value for name, value in job.items()}):
        assert main(command) == 0
    assert "3 recordings (0 already done)" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "cache"), "--deep"]) == 0


def test_only_one_kind_of_worker_is_taken(tree, tmp_path, capsys):
    command = ["--input", str(tree(train=1)), "--output", str(tmp_path / "cache")]
    assert main([*command, "--workers", "2", "--scheduler", "tcp://127.0.0.1:1"]) == 1
    assert "only one of --workers, --scheduler and --slurm" in capsys.readouterr().err
