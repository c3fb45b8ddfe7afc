"""Where the time of a step goes."""

import time
from itertools import pairwise

import torch

PARTS = ("data", "forward_backward", "optimizer")
#: Above this share of the step spent waiting for data, the loader is too slow.
STARVING = 0.2


class StepTimes:
    """Seconds of each part of a step, summed over the steps since `reset`.

    `mark(part)` ends a part that began at the mark before. On a GPU the ends are events in its
    queue, read a step later, so that the host need not wait for them.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self.reset()

    def reset(self) -> None:
        self.seconds, self.steps = dict.fromkeys(PARTS, 0.0), 0
        self._wait_from = time.perf_counter()
        self._marks: list = []  # (part, its end) of this step
        self._unread: list = []  # of the step before

    def data_ready(self) -> None:
        """The host has its batch: what it waited is time for data."""
        self.seconds["data"] += time.perf_counter() - self._wait_from
        self._marks = [("", self._now())]

    def mark(self, part: str) -> None:
        self._marks.append((part, self._now()))

    def finish(self) -> None:
        self._read()
        self._unread, self._marks = self._marks, []
        self.steps += 1
        self._wait_from = time.perf_counter()

    def _read(self) -> None:
        """Add up the step before."""
        if self._unread and self._on_gpu:
            self._unread[-1][1].synchronize()
        for (_, start), (part, end) in pairwise(self._unread):
            self.seconds[part] += start.elapsed_time(end) / 1e3 if self._on_gpu else end - start
        self._unread = []

    def _now(self):
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def figures(self) -> dict[str, float]:
        """Milliseconds per step of each part."""
        self._read()
        return {f"{part}_ms": 1e3 * self.seconds[part] / max(self.steps, 1) for part in PARTS}

    def complaint(self, workers: int) -> str:
        """One sentence if the device starves; empty if it does not."""
        self._read()
        share = self.seconds["data"] / max(sum(self.seconds.values()), 1e-9)
        if share < STARVING:
            return ""
        return (
            f"the loader starves the device: {share:.0%} of a step waits for data with "
            f"workers={workers}: raise workers, or set in_memory if the set is small"
        )
