"""Where samples and masks come from: a cache of events with masks, or a folder of pictures."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evaluation.provenance import content_hash
from models.detector import DetectorConfig
from preprocessing.augment import AugmentConfig
from preprocessing.cache import read_manifest
from preprocessing.geometry import Geometry
from preprocessing.histogram import HistogramSettings
from preprocessing.inputs import check_input
from segmentation.batches import PicturesToLearn, PicturesToScore
from segmentation.dataset import MaskDataset
from segmentation.framing import FramingConfig, Size
from segmentation.pictures import Layout, open_pictures
from segmentation.spec import MaskSpec


class ToScore(Protocol):
    """Samples of a split with their masks as labelled."""

    spec: MaskSpec
    name: str

    @property
    def stack(self) -> Callable[[Sequence[Any]], Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...

    def mask(self, index: int) -> np.ndarray: ...

    def picture(self, index: int) -> np.ndarray: ...

    def title(self, index: int) -> str: ...

    def canvas(self, index: int) -> Size: ...

    def placed(self, batch: Any) -> tuple[Size, list[Size]]: ...

    def checksum(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Which samples: a cache and its masks, or pictures and theirs.

    Args:
        cache: Directory that `python -m preprocessing` wrote, best with --keep masks.
        masks: With a cache: folder of the masks, {train,val,test}/NAME_masks/TIME.png with
            masks.yaml; usually that of the recordings.
        pictures: Instead of a cache: root of a set of pictures with masks.
        layout: How it lies there: folder is images/{split} and masks/{split}; simulator what
            `python -m simulator --frames --masks` writes.
    """

    cache: Path | None = None
    masks: Path | None = None
    pictures: Path | None = None
    layout: Layout = "folder"

    def __post_init__(self) -> None:
        for name in ("cache", "masks", "pictures"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, Path(value))
        if (self.cache is None) == (self.pictures is None):
            found = "neither" if self.cache is None else "both"
            raise ValueError(f"{found} of cache and pictures were given, expected one of them")
        if (self.cache is None) != (self.masks is None):
            given, lacking = ("masks", "cache") if self.cache is None else ("cache", "masks")
            raise ValueError(f"{given} was given without {lacking}, expected both or pictures")

    @property
    def about(self) -> dict[str, Any]:
        """What a checkpoint says of the data: the histograms of a cache, nothing of pictures."""
        if self.cache is None:
            return {"pictures": {"layout": self.layout}}
        manifest = read_manifest(self.cache)
        histogram, dataset = asdict(manifest.settings), manifest.dataset.as_dict()
        return {"histogram": histogram, "input": "histogram", "dataset": dataset}

    @property
    def identity(self) -> dict[str, str]:
        """Which data a run learns from, for run.json."""
        if self.cache is None:
            return {"pictures": str(self.pictures)}
        return {"manifest_sha256": content_hash(asdict(read_manifest(self.cache)))}


def open_to_score(
    config: SourceConfig,
    network: DetectorConfig,
    split: str,
    side: int,
    settings: HistogramSettings | None = None,
    in_memory: bool = False,
) -> ToScore:
    """A split as it is; side: px of the shorter side of pictures, 0 as they are.

    Raises ValueError for samples that the network cannot read, or of another number of classes.
    """
    if config.cache is None:
        check_channels(network, "pictures", 3)
        pictures = open_pictures(root_of(config), config.layout, split)
        found: ToScore = PicturesToScore(pictures, side, network.time_steps)
    else:
        found = events_of(config, network, split, settings, in_memory=in_memory)
    return of_as_many(found, network)


def open_to_learn(
    config: SourceConfig,
    network: DetectorConfig,
    seed: int,
    augment: AugmentConfig | None,
    framing: FramingConfig,
    in_memory: bool = False,
) -> MaskDataset | PicturesToLearn:
    """The train split, changed at random."""
    if config.cache is None:
        check_channels(network, "pictures", 3)
        pictures = open_pictures(root_of(config), config.layout, "train")
        return of_as_many(PicturesToLearn(pictures, framing, seed, network.time_steps), network)
    options = {"augment": augment, "seed": seed, "in_memory": in_memory}
    return of_as_many(events_of(config, network, "train", None, **options), network)


def events_of(
    config: SourceConfig,
    network: DetectorConfig,
    split: str,
    settings: HistogramSettings | None,
    **options: Any,
) -> MaskDataset:
    assert config.cache is not None
    assert config.masks is not None
    settings = settings or read_manifest(config.cache).settings
    check_input(network.in_channels, network.time_steps, settings, "histogram")
    geometry = Geometry(settings.height, settings.width, settings.downsample)
    return MaskDataset(config.cache, config.masks, split, geometry, settings=settings, **options)


def root_of(config: SourceConfig) -> Path:
    assert config.pictures is not None
    return config.pictures


def check_channels(network: DetectorConfig, what: str, channels: int) -> None:
    if network.in_channels != channels:
        found = f"{what} have {channels} channels"
        raise ValueError(f"{found}, the model was built for {network.in_channels}")


def of_as_many(found: Any, network: DetectorConfig) -> Any:
    """What was found; ValueError where it has another number of classes than the network."""
    if len(found.spec.classes) != network.num_classes:
        classes = f"{found.name}: has {len(found.spec.classes)} classes"
        raise ValueError(f"{classes}, the model was built for {network.num_classes}")
    return found
