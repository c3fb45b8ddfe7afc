"""The task of naming every pixel: a cache and its masks, the loss of the head, mIoU on val."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from evaluation.provenance import content_hash
from evaluation.report import firing_health
from models import resolve
from models.detector import DetectorConfig, DetectorNetwork
from models.device import pick_device
from models.energy import measure_energy
from preprocessing.augment import AugmentConfig
from preprocessing.cache import Manifest
from preprocessing.dataset import Loader
from preprocessing.geometry import Geometry
from preprocessing.inputs import check_input
from segmentation.dataset import MaskBatch, MaskDataset, stack
from segmentation.predict import confusion_of, spread_out
from segmentation.report import masks_figure
from segmentation.score import AbsentRule, Confusion
from training.config import RunConfig
from training.log import Logbook
from training.loop import Task
from training.ranks import Ranks

#: Samples on which firing is measured if no pictures are drawn; layers that a warning names.
FIRING_SAMPLES, NAMES_SHOWN = 4, 6


@dataclass(frozen=True, kw_only=True)
class MaskTrainConfig(RunConfig):
    """Train a network that names the class of every pixel, choose it on the val split.

    Args:
        cache: Directory that `python -m preprocessing` wrote, best with --keep masks.
        masks: Folder of the masks, {train,val,test}/NAME_masks/TIME.png with masks.yaml; usually
            that of the recordings.
        in_memory: Decompress both splits of the cache into memory once; for small sets.
        augment_on: Whether training samples and their masks are augmented.
        absent: What a class that is nowhere is to the mIoU that chooses: "present" leaves it out,
            "all" counts it as 0.
        pictures: Samples of val drawn into TensorBoard; firing rates are theirs (0: of 4).
        augment: What augmentation may do.
    """

    cache: Path
    masks: Path
    in_memory: bool = False
    augment_on: bool = True
    absent: AbsentRule = "present"
    pictures: int = 4
    model: DetectorConfig = field(
        default_factory=partial(resolve, "spike2former-tiny", variant="gen1")
    )
    augment: AugmentConfig = field(default_factory=AugmentConfig)


def mask_task(
    config: MaskTrainConfig, model: DetectorNetwork, manifest: Manifest, ranks: Ranks
) -> Task:
    """Train and val of a cache with their masks, the model's own loss, mIoU.

    Raises ValueError for splits that cannot be learnt from, and for other classes than the model's.
    """
    settings = manifest.settings
    check_input(model.config.in_channels, model.config.time_steps, settings, "histogram")
    split = partial(
        MaskDataset,
        config.cache,
        config.masks,
        geometry=Geometry(settings.height, settings.width, settings.downsample),
        settings=settings,
        in_memory=config.in_memory,
    )
    augment = config.augment if config.augment_on else None
    train_set = split(split="train", augment=augment, seed=config.seed)
    val_set = split(split="val", spec=train_set.spec)
    classes = len(train_set.spec.classes)
    if classes != model.config.num_classes:
        found = f"{config.masks}: has {classes} classes"
        raise ValueError(f"{found}, the model was built for {model.config.num_classes}")
    criterion = MaskCriterion(config, model, ranks)
    return Task(
        TrainData(train_set, config, manifest), criterion, ValScorer(val_set, config, ranks)
    )


def about_data(manifest: Manifest, task: Task) -> dict[str, Any]:
    """What a checkpoint says of the data that its network reads."""
    histogram, dataset = asdict(manifest.settings), manifest.dataset.as_dict()
    masks = task.scorer.dataset.spec.as_dict()  # type: ignore[attr-defined]
    return {"histogram": histogram, "input": "histogram", "dataset": dataset, "masks": masks}


class MaskCriterion:
    """The loss of the network's head against the masks of a batch."""

    def __init__(self, config: MaskTrainConfig, model: DetectorNetwork, ranks: Ranks) -> None:
        self.loss = model.criterion(config.gains, ranks.sum)

    def __call__(self, maps: list[Tensor], batch: MaskBatch) -> dict[str, Tensor]:
        return self.loss(maps, batch.targets)


class TrainData:
    """The train split in batches, read ahead by worker processes."""

    def __init__(self, dataset: MaskDataset, config: MaskTrainConfig, manifest: Manifest) -> None:
        self.dataset, self.workers = dataset, config.workers
        self.identity = {"manifest_sha256": content_hash(asdict(manifest))}
        self.pin_memory = pick_device(config.device).type == "cuda"

    def __len__(self) -> int:
        return len(self.dataset)

    def batches(self, epoch: int, indices: list[list[int]]) -> Iterable[MaskBatch]:
        self.dataset.set_epoch(epoch)
        ahead = {"pin_memory": self.pin_memory, "prefetch_factor": 4 if self.workers else None}
        return Loader(self.dataset, indices, self.workers, stack, **ahead)


class ValScorer:
    """mIoU on val, of which every rank judges its share; pictures, firing and energy on the way."""

    def __init__(self, dataset: MaskDataset, config: MaskTrainConfig, ranks: Ranks) -> None:
        self.dataset, self.config, self.ranks = dataset, config, ranks
        self.rule: dict[str, str] = {"absent": config.absent}

    def __call__(
        self, network: DetectorNetwork, epoch: int, logbook: Logbook | None
    ) -> dict[str, float]:
        config, ranks = self.config, self.ranks
        share, whole = (ranks.rank, ranks.world), Confusion(self.dataset.spec.classes)
        sizes = config.batch_size, config.workers
        mine = confusion_of(network, self.dataset, *sizes, shard=share)
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
        """Log pictures and firing rates; mJ of an inference and how many times less it is."""
        chosen = spread_out(self.dataset, self.config.pictures or FIRING_SAMPLES)
        if self.config.pictures:
            logbook.add_picture("val", masks_figure(network, self.dataset, chosen), epoch)
        if not network.config.is_spiking:
            return {}
        batch = stack([self.dataset[index] for index in chosen])
        device = next(network.parameters()).device
        energy = measure_energy(network, [batch.to(device).network_input()])
        rates = {la.name: la.firing_rate for la in energy.layers if la.firing_rate is not None}
        logbook.add_firing_rates({**rates, "mean": energy.firing_rate}, epoch)
        for line in logbook.add_firing_health(firing_health(energy.as_dict(), NAMES_SHOWN), epoch):
            print(line, flush=True)
        return {"val_mj": energy.snn_mj, "val_ann_ratio": energy.ratio}
