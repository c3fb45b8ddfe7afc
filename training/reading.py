"""The train split in batches, read ahead by worker processes, whatever its samples are."""

from collections.abc import Callable, Sequence
from typing import Any

from models.device import pick_device
from preprocessing.dataset import Loader
from training.config import RunConfig


class TrainData:
    """A data set as the loop asks for it; it draws its augmentations anew at `set_epoch`.

    identity: which data these are, for run.json. stack: samples -> batch.
    """

    def __init__(
        self,
        dataset: Any,
        config: RunConfig,
        identity: dict[str, str],
        stack: Callable[[Sequence[Any]], Any],
    ) -> None:
        self.dataset, self.identity, self.stack = dataset, identity, stack
        self.workers = config.workers
        self.pin_memory = pick_device(config.device).type == "cuda"

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, epoch: int, indices: list[list[int]]) -> Loader:
        self.dataset.set_epoch(epoch)
        ahead = {"pin_memory": self.pin_memory, "prefetch_factor": 4 if self.workers else None}
        return Loader(self.dataset, indices, self.workers, self.stack, **ahead)
