"""What is learnt, as the loop sees it: three objects, and a fourth if state is carried."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from models.detector import DetectorNetwork
from training.log import Logbook
from training.stream import Stream


class Batch(Protocol):
    """What the data set hands out and the criterion understands: input, and labels as targets."""

    @property
    def targets(self) -> Tensor: ...

    def to(self, device: torch.device, non_blocking: bool = ...) -> Self: ...

    def network_input(self) -> Tensor: ...


class Data(Protocol):
    """Samples, and batches of them by their indices; `identity`: which data, for run.json."""

    @property
    def identity(self) -> dict[str, str]: ...

    def __len__(self) -> int: ...

    def batches(self, epoch: int, indices: list[list[int]]) -> Iterable[Batch]: ...


class Scorer(Protocol):
    """Network, epoch, log (of the main process) -> figures; the first chooses the best.

    `rule`: what figures are by, kept beside them.
    """

    @property
    def rule(self) -> dict[str, str]: ...

    def __call__(
        self, network: DetectorNetwork, epoch: int, logbook: Logbook | None
    ) -> dict[str, float]: ...


class Task(NamedTuple):
    """What is learnt: the data, the losses of maps and batch by name, per image, and a score.

    stream: which clips come in which order, if state is carried; data hands out what it names.
    """

    data: Data
    criterion: Callable[[list[Tensor], Any], dict[str, Tensor]]
    scorer: Scorer
    stream: Stream | None = None
