"""The task of finding objects in pictures: two COCO-format sets, the loss of boxes, COCO's mAP."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from images.augment import Sample, Warp, flipped, mixed, mosaic, recoloured, warped
from images.batches import ToScore, collate, on_canvas
from images.coco import ImageSet, read_coco, read_picture
from images.evaluate import detect
from images.geometry import STRIDE, Placing, load_size, resized
from images.published import COCO_CLASSES, in_words
from images.score import score
from models import resolve
from models.decode import DetectConfig
from models.detector import DetectorConfig, DetectorNetwork
from models.memory.carried import has_memory
from training.boxes import BoxCriterion
from training.config import DetectorRunConfig
from training.firing import FIRING_SAMPLES, tell_of_firing
from training.log import Logbook
from training.ranks import Ranks
from training.reading import TrainData
from training.task import Task

RGB = 3  # channels


@dataclass(frozen=True)
class PictureAugmentConfig:
    """What may happen to a training sample; the defaults are the authors' on COCO.

    Args:
        mosaic: Probability of four pictures in one, in [0, 1].
        close_mosaic: Epochs at the end without it.
        scale: Largest change of size, as a share: 0.5 is half to one and a half.
        translate: Largest displacement, as a share of the side.
        hue: Largest change of hue, as a share of the colour circle.
        saturation: Largest change of saturation, as a share.
        value: Largest change of brightness, as a share.
        flip: Probability of mirroring left and right, in [0, 1].
        mixup: Probability of mixing with another sample, in [0, 1].
    """

    mosaic: float = 1.0
    close_mosaic: int = 10
    scale: float = 0.5
    translate: float = 0.1
    hue: float = 0.015
    saturation: float = 0.7
    value: float = 0.4
    flip: float = 0.5
    mixup: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mosaic", "flip", "mixup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if not 0 <= self.scale < 1:
            raise ValueError(f"scale is {self.scale}, expected 0 or more, below 1")


@dataclass(frozen=True, kw_only=True)
class ImageTrainConfig(DetectorRunConfig):
    """Train a detector on pictures, choose it on others.

    Args:
        images: Folder of the pictures to learn from.
        annotations: COCO's instances json of them.
        val_images: Folder of the pictures to choose by.
        val_annotations: COCO's instances json of them.
        side: Side of the network's square input, in px, a multiple of 32.
        in_memory: Decode the pictures to learn from into memory once; for sets that fit.
        augment_on: Whether training samples are augmented.
        augment: What augmentation may do.
        detect: Thresholds of the detections on val.
    """

    images: Path
    annotations: Path
    val_images: Path
    val_annotations: Path
    side: int = 640
    in_memory: bool = False
    augment_on: bool = True
    model: DetectorConfig = field(default_factory=partial(resolve, "spikeyolo-s", variant="coco"))
    augment: PictureAugmentConfig = field(default_factory=PictureAugmentConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side < STRIDE or self.side % STRIDE:
            raise ValueError(f"side is {self.side} px, expected a multiple of {STRIDE}")
        if self.model.in_channels != RGB:
            found = f"model.in_channels is {self.model.in_channels}"
            raise ValueError(f"{found}, expected {RGB}: pictures are RGB")
        if has_memory(self.model):
            raise ValueError("model.memory is for events alone: pictures do not follow one another")


class ToTrain(Dataset[Any]):
    """Samples of an image set, augmented by (seed, epoch, index), whatever the workers."""

    def __init__(self, images: ImageSet, config: ImageTrainConfig) -> None:
        self.images, self.config = images, config
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        everyone = range(len(self)) if config.in_memory else ()
        shown = tqdm(everyone, "decoding", unit="picture", leave=False, disable=None)
        self._decoded = [self.decoded(index) for index in shown]

    def __len__(self) -> int:
        return len(self.images.pictures)

    def set_epoch(self, epoch: int) -> None:
        """Draw other augmentations from now on; workers that already run see it too."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> Any:
        config, epoch = self.config, int(self._epoch)
        if not config.augment_on:
            return on_canvas(self.boxed(index), index)
        rng = np.random.default_rng([config.seed, epoch, index])
        closed = epoch >= config.epochs - config.augment.close_mosaic
        sample = self.drawn(index, rng, closed)
        if rng.random() < config.augment.mixup:
            other = self.drawn(int(rng.integers(len(self))), rng, closed)
            sample = mixed(sample, other, float(rng.beta(32, 32)))
        return on_canvas(coloured(sample, config.augment, rng), index)

    def decoded(self, index: int) -> Sample:
        """A picture whose longer side is that of the input, and the objects in it."""
        picture = self.images.pictures[index]
        pixels = read_picture(picture.path)
        size = load_size(pixels.shape[:2], self.config.side)
        factors = np.array([size[axis] / pixels.shape[axis] for axis in (1, 0)] * 2)
        real = ~picture.crowd
        boxes = picture.boxes[real] * factors
        return Sample(resized(pixels, size), picture.classes[real], boxes)

    def loaded(self, index: int) -> Sample:
        """The same, from memory if it is there."""
        return self._decoded[index] if self._decoded else self.decoded(index)

    def boxed(self, index: int) -> Sample:
        """In the middle of the square input."""
        sample, side = self.loaded(index), self.config.side
        placing = Placing.letterbox(sample.picture.shape[:2], (side, side))
        return Sample(placing.paint(sample.picture), sample.classes, placing.boxes_in(sample.boxes))

    def drawn(self, index: int, rng: np.random.Generator, closed: bool) -> Sample:
        """One picture or a mosaic of it and three of the set, moved and scaled at random."""
        given, side = self.config.augment, self.config.side
        if not closed and rng.random() < given.mosaic:
            partners = [index, *rng.integers(len(self), size=3).tolist()]
            row, column = (int(rng.uniform(side / 2, 3 * side / 2)) for _ in range(2))
            sample = mosaic([self.loaded(k) for k in partners], side, (row, column))
        else:
            sample = self.boxed(index)
        scale = rng.uniform(1 - given.scale, 1 + given.scale)
        x, y = rng.uniform(0.5 - given.translate, 0.5 + given.translate, 2)
        return warped(sample, Warp(scale, x, y), (side, side))


def coloured(sample: Sample, given: PictureAugmentConfig, rng: np.random.Generator) -> Sample:
    """Other colours and, perhaps, left and right exchanged."""
    gains = 1 + rng.uniform(-1, 1, 3) * (given.hue, given.saturation, given.value)
    picture = recoloured(sample.picture, gains.tolist())
    sample = Sample(picture, sample.classes, sample.boxes)
    return flipped(sample) if rng.random() < given.flip else sample


class ValScorer:
    """COCO's mAP on val, of which every rank detects its share, and the energy of an inference."""

    def __init__(self, images: ImageSet, config: ImageTrainConfig, ranks: Ranks) -> None:
        self.images, self.config, self.ranks = images, config, ranks
        self.rule: dict[str, str] = {"protocol": "coco"}

    def __call__(
        self, network: DetectorNetwork, epoch: int, logbook: Logbook | None
    ) -> dict[str, float]:
        config, ranks = self.config, self.ranks
        steps = network.config.time_steps
        batches = ToScore(self.images, config.side, config.batch_size, time_steps=steps)
        device, share = next(network.parameters()).device, (ranks.rank, ranks.world)
        shares = ranks.gather(detect(network, batches, config.detect, device, share))
        found = {number: rows for part in shares for number, rows in part.items()}
        stats = score(self.images, found).stats
        figures = {"val_map_50_95": float(stats[0]), "val_map_50": float(stats[1])}
        if logbook is not None and len(self.images.categories) == COCO_CLASSES:
            print(in_words(epoch + 1, figures), flush=True)
        if logbook is None:
            return figures
        few = ToScore(self.images, config.side, FIRING_SAMPLES, time_steps=steps)
        x = few[len(few) // 2].network_input()
        return {**figures, **tell_of_firing(network, x, epoch, logbook)}


def image_task(config: ImageTrainConfig, model: DetectorNetwork, ranks: Ranks) -> Task:
    """Two image sets, the model's own loss, COCO's mAP.

    Raises ValueError for sets that cannot be learnt from or scored, of other categories.
    """
    train, val = (
        read_coco(path, folder)
        for path, folder in (
            (config.annotations, config.images),
            (config.val_annotations, config.val_images),
        )
    )
    refuse_unfit(train, val, model.config.num_classes, config)
    dataset = ToTrain(train, config)

    def example() -> Tensor:
        return collate([dataset[0]], model.config.time_steps).network_input()

    criterion = BoxCriterion(config, model, example, ranks)
    identity = {"annotations_sha256": hashlib.sha256(config.annotations.read_bytes()).hexdigest()}
    stack = partial(collate, time_steps=model.config.time_steps)
    data = TrainData(dataset, config, identity, stack)
    return Task(data, criterion, ValScorer(val, config, ranks))


def refuse_unfit(
    train: ImageSet, val: ImageSet, num_classes: int, config: ImageTrainConfig
) -> None:
    """ValueError for sets without labels, or of other classes than each other or the network."""
    if train.categories != val.categories:
        found = f"{config.val_annotations}: has the categories {', '.join(val.categories)}"
        raise ValueError(f"{found}, expected those of {config.annotations}")
    if len(train.categories) != num_classes:
        found = f"{config.annotations}: has {len(train.categories)} categories"
        raise ValueError(f"{found}, the model was built for {num_classes} classes")
    for path, images in ((config.annotations, train), (config.val_annotations, val)):
        if not any(len(picture.boxes) for picture in images.pictures):
            raise ValueError(f"{path}: holds no boxes, expected one at least")


def about_data(config: ImageTrainConfig, categories: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint says of the pictures that its network reads."""
    augment = asdict(config.augment) if config.augment_on else None
    return {"images": {"side": config.side, "categories": [*categories], "augment": augment}}
