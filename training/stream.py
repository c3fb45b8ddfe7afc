"""Training on clips: windows of a recording in order, the state carried from clip to clip.

A batch has a row per stream; a stream goes on where it was in the batch before. The gradient flows
through the windows of a clip and no further back (truncated back-propagation through time).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.streams import refuse_uncarried
from models.detector import DetectorNetwork
from models.memory.carried import begin_clips, put_back, refuse_stateless, state_of
from preprocessing.dataset import Batch, HistogramDataset
from training.config import ClipConfig

#: Keeps the draws of the order apart from those of the augmentation.
ORDER_SPACE = 57


@dataclass(frozen=True)
class ClipBatch(Batch):
    """`clip` windows of each of B rows, window after window: row b's k-th is sample k * B + b.

    from_rest: bool [B], rows that do not go on from the batch before. labelled: bool [clip * B],
    windows with a label time; of the others nobody said what is in them.
    """

    from_rest: Tensor
    labelled: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "ClipBatch":
        moved = super().to(device, non_blocking)
        return replace(self, frames=moved.frames, targets=moved.targets)

    def windows(self, rows: Tensor) -> Batch:
        """Some of its windows, int64 [n] ascending, as a batch of their own."""
        number = torch.full_like(self.labelled, -1, dtype=torch.int64)
        number[rows] = torch.arange(len(rows))
        image = number.to(self.targets.device)[self.targets[:, 0].long()]
        targets = torch.cat([image[:, None].to(self.targets), self.targets[:, 1:]], dim=1)
        names = tuple(self.recordings[row] for row in rows.tolist())
        return Batch(self.frames[:, rows], targets[image >= 0], names, self.times_us[rows])


class LabelledWindows:
    """A criterion that hears of the labelled windows of a clip alone."""

    def __init__(self, criterion: Callable[[list[Tensor], Any], dict[str, Tensor]]) -> None:
        self.criterion = criterion

    def __call__(self, maps: list[Tensor], batch: ClipBatch) -> dict[str, Tensor]:
        rows = batch.labelled.nonzero().flatten()
        if len(rows):
            return self.criterion([m[rows] for m in maps], batch.windows(rows))
        first = torch.zeros(1, dtype=torch.int64)  # nothing to learn, but every rank takes part
        losses = self.criterion([m[:1] for m in maps], batch.windows(first))
        return {name: 0 * loss for name, loss in losses.items()}


class Clips(nn.Module):
    """A network that keeps its state: x [T, clip * B, C, H, W], window after window -> maps."""

    def __init__(self, network: nn.Module, clip: int) -> None:
        super().__init__()
        self.network, self.clip = network, clip

    def forward(self, x: Tensor) -> list[Tensor]:
        windows = [self.network(part) for part in x.chunk(self.clip, dim=1)]
        return [torch.cat(maps) for maps in zip(*windows, strict=True)]


class Stream:
    """Which clips a training sees in which order, and the state between them.

    Clips are named by numbers: the sample of their first window, plus the number of samples if
    they start from rest. Raises ValueError for a split whose recordings are too short, or whose
    windows are not one after another.
    """

    def __init__(self, dataset: HistogramDataset, config: ClipConfig, batch_size: int) -> None:
        refuse_uncarried(dataset)
        self.clip, self.batch_size, self.samples = config.clip, batch_size, len(dataset)
        self.recordings = dataset.recordings
        self.is_labelled = torch.from_numpy(dataset.labelled)
        self.windows = np.array([len(dataset.times_us(name)) for name in dataset.recordings])
        self.firsts = np.cumsum(self.windows) - self.windows
        short = int(np.argmin(self.windows))
        if self.windows[short] < self.clip:
            found = f"recording {self.recordings[short]} has {self.windows[short]} windows"
            expected = f"expected at least stream.clip, {self.clip}"
            raise ValueError(f"{dataset.name}: {found}, {expected}")
        self.at_random = round(config.random_share * batch_size)
        self.streams = batch_size - self.at_random
        clips = int((self.windows // self.clip).sum())
        if not 0 < self.streams <= clips:
            found = f"{clips} clips of {self.clip} windows for {self.streams} streams in a batch"
            expected = "expected one each at least: other stream.clip, random-share or batch-size"
            raise ValueError(f"{dataset.name}: {found}, {expected}")
        self.batches = clips // self.streams

    def wrap(self, network: DetectorNetwork) -> Clips:
        """The network as it is trained."""
        refuse_stateless(network, "stream.clip")
        if self.clip * network.config.steps < 2:
            found = f"stream.clip is {self.clip} for a network of one step"
            raise ValueError(f"{found}, expected 2 or more: nothing would be remembered in it")
        network.carry_state = True
        return Clips(network, self.clip)

    def order(self, seed: int, epoch: int) -> list[int]:
        """Clips of an epoch, batch after batch: first every row of a stream, then those at random.

        Recordings follow each other in random order, each from a window that its clips leave
        over; they are dealt to the rows in equal parts, so that one may be cut between two rows.
        """
        draws = np.random.default_rng([seed, epoch, ORDER_SPACE])
        every = [clip for k in draws.permutation(len(self.windows)) for clip in self._of(k, draws)]
        length = self.batches
        rows = [every[j * length : (j + 1) * length] for j in range(self.streams)]
        for row in rows:
            row[0] = row[0] % self.samples + self.samples
        drawn = iter([self._at_random(draws) for _ in range(self.at_random * length)])
        order: list[int] = []
        for batch in zip(*rows, strict=True):
            order += [*batch, *(next(drawn) for _ in range(self.at_random))]
        return order

    def _of(self, recording: int, draws: np.random.Generator) -> list[int]:
        """Clips of a whole recording; the first starts from rest."""
        count, over = divmod(int(self.windows[recording]), self.clip)
        first = int(self.firsts[recording]) + int(draws.integers(over + 1))
        return [first + k * self.clip + (0 if k else self.samples) for k in range(count)]

    def _at_random(self, draws: np.random.Generator) -> int:
        places = self.windows - self.clip + 1
        recording = int(draws.choice(len(places), p=places / places.sum()))
        return int(self.firsts[recording] + draws.integers(places[recording])) + self.samples

    def indices(self, clips: Sequence[int]) -> list[int]:
        """The samples of a batch of clips, window after window."""
        return [clip % self.samples + k for k in range(self.clip) for clip in clips]

    def labelled(self, clips: Sequence[int]) -> Tensor:
        """Which windows of a batch of clips have a label time, bool [clip * B]."""
        return self.is_labelled[self.indices(clips)]

    def from_rest(self, clips: Sequence[int]) -> Tensor:
        """Which of them start from rest, bool [B]."""
        return torch.tensor([clip >= self.samples for clip in clips])

    def begin(self, network: DetectorNetwork, batch: Any) -> None:
        """Before a batch is learnt: cut the gradient, and let new recordings start from rest."""
        begin_clips(network, batch.from_rest)

    def state(self, network: DetectorNetwork, batch: int) -> dict[str, Tensor]:
        """What a checkpoint after so many batches of an epoch needs of it."""
        return state_of(network) if 0 < batch < self.batches else {}

    def put_back(
        self, network: DetectorNetwork, states: Sequence[Any], rank: int, world: int
    ) -> None:
        """Go on from a checkpoint; at rest from one of other processes, whose rows are others."""
        if len(states) == world:
            put_back(network, states[rank], next(network.parameters()).device)


class ClipData:
    """Clips in batches; `data`: the train split, sample by sample."""

    def __init__(self, data: Any, stream: Stream) -> None:
        self.data, self.stream, self.identity = data, stream, data.identity

    def __len__(self) -> int:
        return self.stream.batches * self.stream.batch_size

    def batches(self, epoch: int, indices: list[list[int]]) -> Iterator[ClipBatch]:
        """indices: numbers of clips, see `Stream`."""
        loader = self.data.batches(epoch, [self.stream.indices(clips) for clips in indices])
        for batch, clips in zip(loader, indices, strict=True):
            about = self.stream.from_rest(clips), self.stream.labelled(clips)
            yield ClipBatch(**vars(batch), from_rest=about[0], labelled=about[1])
