"""Where a step's time goes, and the sentence when it goes into waiting."""

import pytest
import torch

from training import log
from training.log import StepTimes


@pytest.fixture
def spent(monkeypatch):
    """spent(data_s, compute_s): the times of two such steps by a clock that we move."""
    now = [0.0]
    monkeypatch.setattr(log.time, "perf_counter", lambda: now[0])

    def two_steps(data_s, compute_s):
        times = StepTimes(torch.device("cpu"))
        for _ in range(2):
            now[0] += data_s
            times.data_ready()
            now[0] += compute_s
            times.mark("forward_backward")
            now[0] += 0.001
            times.mark("optimizer")
            times.finish()
        return times

    return two_steps


def test_parts_are_told_apart(spent):
    assert spent(0.01, 0.04).figures() == pytest.approx(
        {"data_ms": 10, "forward_backward_ms": 40, "optimizer_ms": 1}
    )


def test_only_a_starving_device_complains(spent):
    assert spent(0.0, 0.04).complaint(workers=4) == ""
    assert "78% of a step waits for data with workers=4" in spent(0.04, 0.01).complaint(workers=4)
