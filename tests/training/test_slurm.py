"""The batch script, with stand-ins for SLURM's commands: signalled, it saves and requeues."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
STAND_INS = {
    "srun": 'shift\nexec "$@"\n',
    "scontrol": 'if [ "$1" = show ]; then echo localhost; else echo "$@" >> "$REQUEUED"; fi\n',
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"\n',
}


@pytest.fixture
def job_id():
    """The script takes its port from it: one of its own where tests run side by side."""
    return str(os.getpid())


@pytest.fixture
def environment(tmp_path, job_id):
    """What SLURM gives a job, for one node with one process."""
    for name, script in STAND_INS.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{script}")
        path.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "REQUEUED": str(tmp_path / "requeued"),
        "SLURM_JOB_ID": job_id,
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_GPUS_ON_NODE": "1",
    }


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signalled_job_saves_and_requeues(small_cache, tmp_path, environment, job_id, number):
    config, output = tmp_path / "tiny.yaml", tmp_path / "run"
    config.write_text(
        "model: {name: spikeyolo-p, time_steps: 2}\nepochs: 1000\nbatch_size: 4\nworkers: 2\n"
        "device: cpu\nsave_every_min: 1000\neval_every: 1000\n"
    )
    command = ["bash", "slurm/train.sbatch", str(config), str(small_cache), str(output)]
    job = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (output / "metrics.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(job.pid, number)  # the batch shell alone, as SLURM does with B:
        assert job.wait(timeout=60) == 0
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert (tmp_path / "requeued").read_text() == f"requeue {job_id}\n"
    state = load_checkpoint(output / "last.pt").training
    assert state["epoch"] >= 1
    assert not list(output.glob("*.tmp"))
