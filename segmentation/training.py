"""The task of naming every pixel: samples and their masks, the loss of the head, mIoU on val."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from evaluation.detect import spread_out
from models import resolve
from models.detector import DetectorConfig, DetectorNetwork
from preprocessing.augment import AugmentConfig
from segmentation.framing import FramingConfig
from segmentation.predict import confusion_of
from segmentation.report import masks_figure
from segmentation.score import AbsentRule, Confusion
from segmentation.sources import SourceConfig, ToScore, open_to_learn, open_to_score
from segmentation.spec import MaskSpec
from training.config import RunConfig
from training.firing import FIRING_SAMPLES, tell_of_firing
from training.log import Logbook
from training.ranks import Ranks
from training.reading import TrainData
from training.task import Task


@dataclass(frozen=True, kw_only=True)
class MaskTrainConfig(RunConfig, SourceConfig):
    """Train a network that names the class of every pixel, choose it on the val split.

    Args:
        in_memory: Decompress both splits of the cache into memory once; for small sets.
        augment_on: Whether training samples of a cache and their masks are augmented.
        absent: What a class that is nowhere is to the mIoU that chooses: "present" leaves it out,
            "all" counts it as 0.
        side: Shorter side of the pictures of val in px, 0 as they are.
        examples: Samples of val drawn into TensorBoard; firing rates are theirs (0: of 4).
        augment: What augmentation of a cache's samples may do.
        framing: How pictures become training samples.
    """

    in_memory: bool = False
    augment_on: bool = True
    absent: AbsentRule = "present"
    side: int = 512
    examples: int = 4
    model: DetectorConfig = field(
        default_factory=partial(resolve, "spike2former-tiny", variant="gen1")
    )
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    framing: FramingConfig = field(default_factory=FramingConfig)

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        SourceConfig.__post_init__(self)
        if self.examples < 0:
            raise ValueError(f"examples is {self.examples}, expected 0 or more")


def mask_task(config: MaskTrainConfig, model: DetectorNetwork, ranks: Ranks) -> Task:
    """Train and val of a source with their masks, the model's own loss, mIoU.

    Raises ValueError for splits that cannot be learnt from, and for other classes than the model's.
    """
    network, in_memory = model.config, config.in_memory
    augment = config.augment if config.augment_on else None
    train_set = open_to_learn(config, network, config.seed, augment, config.framing, in_memory)
    val_set = open_to_score(config, network, "val", config.side, in_memory=in_memory)
    if val_set.spec.classes != train_set.spec.classes:
        found = f"{val_set.name}: has the classes {', '.join(val_set.spec.classes)}"
        raise ValueError(f"{found}, expected {', '.join(train_set.spec.classes)} as of train")
    criterion = MaskCriterion(config, model, ranks)
    data = TrainData(train_set, config, config.identity, train_set.stack)
    return Task(data, criterion, ValScorer(val_set, config, ranks))


def about_data(config: MaskTrainConfig, task: Task) -> dict[str, Any]:
    """What a checkpoint says of the data that its network reads."""
    spec: MaskSpec = task.scorer.source.spec  # type: ignore[attr-defined]
    return {**config.about, "masks": spec.as_dict()}


class MaskCriterion:
    """The loss of the network's head against the masks of a batch."""

    def __init__(self, config: MaskTrainConfig, model: DetectorNetwork, ranks: Ranks) -> None:
        self.loss = model.criterion(config.gains, ranks.sum)

    def __call__(self, maps: list[Tensor], batch: Any) -> dict[str, Tensor]:
        return self.loss(maps, batch.targets)


class ValScorer:
    """mIoU on val, of which every rank judges its share; pictures, firing and energy on the way."""

    def __init__(self, source: ToScore, config: MaskTrainConfig, ranks: Ranks) -> None:
        self.source, self.config, self.ranks = source, config, ranks
        self.rule: dict[str, str] = {"absent": config.absent}

    def __call__(
        self, network: DetectorNetwork, epoch: int, logbook: Logbook | None
    ) -> dict[str, float]:
        config, ranks = self.config, self.ranks
        share, whole = (ranks.rank, ranks.world), Confusion(self.source.spec.classes)
        sizes = config.batch_size, config.workers
        mine = confusion_of(network, self.source, *sizes, shard=share)
        for part in ranks.gather(mine):
            whole.merge(part)
        scores = whole.scores()
        figures = {
            "val_miou": scores.miou[config.absent],
            "val_pixel_accuracy": scores.pixel_accuracy,
        }
        if logbook is not None:
            figures |= self._show(network, epoch, logbook)
        return figures

    def _show(self, network: DetectorNetwork, epoch: int, logbook: Logbook) -> dict[str, float]:
        """Log pictures and firing rates; what an inference costs, see `tell_of_firing`."""
        chosen = spread_out(len(self.source), self.config.examples or FIRING_SAMPLES)
        if self.config.examples:
            logbook.add_picture("val", masks_figure(network, self.source, chosen), epoch)
        batch = self.source.stack([self.source[index] for index in chosen])
        return tell_of_firing(network, batch.network_input(), epoch, logbook)
