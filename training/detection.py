"""The task of finding objects in event histograms: a cache, the loss of boxes, the mAP on val."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.detect import Detections, detect, open_split, spread_out
from evaluation.metrics import refuse_unready, score
from evaluation.provenance import content_hash
from evaluation.report import detections_figure
from evaluation.streams import detect_streams, refuse_uncarried
from models.detector import DetectorNetwork
from preprocessing.cache import Manifest, open_cache, read_header
from preprocessing.dataset import HistogramDataset, collate
from training.boxes import BoxCriterion
from training.config import TrainConfig
from training.firing import FIRING_SAMPLES, tell_of_firing
from training.log import Logbook
from training.ranks import Ranks
from training.reading import TrainData
from training.stream import ClipData, LabelledWindows, Stream
from training.task import Task


def detection_task(
    config: TrainConfig, model: DetectorNetwork, manifest: Manifest, ranks: Ranks
) -> Task:
    """Train and val of a cache, the model's own loss, mAP under `config.protocol`.

    Raises ValueError for splits that cannot be learnt from, scored, or told apart.
    """
    split = partial(
        open_split,
        config.cache,
        config=model.config,
        settings=manifest.settings,
        input=config.input,
        spec=manifest.dataset,
        in_memory=config.in_memory,
    )
    augment, clip = config.augment if config.augment_on else None, config.stream.clip
    split_to_learn = partial(split, "train", augment=augment, seed=config.seed)
    train_set = split_to_learn(augment_alike=clip > 0, labelled_only=not clip)
    val_set, stream = split("val"), None
    if clip:
        stream = Stream(train_set, config.stream, config.batch_size)
        refuse_uncarried(val_set)
    refuse_unready(train_set, val_set, config.protocol)
    refuse_leaks(event_hashes(config.cache, manifest.recordings))
    identity = {"manifest_sha256": content_hash(asdict(manifest))}
    data = TrainData(train_set, config, identity, collate)
    criterion = BoxCriterion(config, model, lambda: collate([train_set[0]]).network_input(), ranks)
    scorer = ValScorer(val_set, config, ranks)
    if stream:
        return Task(ClipData(data, stream), LabelledWindows(criterion), scorer, stream)
    return Task(data, criterion, scorer)


def about_data(config: TrainConfig, manifest: Manifest) -> dict[str, Any]:
    """What a checkpoint says of the data that its network reads."""
    histogram, dataset = asdict(manifest.settings), manifest.dataset.as_dict()
    return {"histogram": histogram, "input": config.input, "dataset": dataset}


class ValScorer:
    """mAP on val, of which every rank detects its share; pictures and firing rates on the way."""

    def __init__(self, dataset: HistogramDataset, config: TrainConfig, ranks: Ranks) -> None:
        self.dataset, self.config, self.ranks = dataset, config, ranks
        self.rule: dict[str, str] = {"protocol": config.protocol}

    def __call__(
        self, network: DetectorNetwork, epoch: int, logbook: Logbook | None
    ) -> dict[str, float]:
        config, ranks = self.config, self.ranks
        detections = merged(ranks.gather(self.detect(network)))
        metrics = score(self.dataset, detections, config.protocol)
        figures = {"val_map_50_95": metrics.map_50_95, "val_map_50": metrics.map_50}
        if logbook is not None:
            figures |= show_validation(
                logbook, epoch, network, self.dataset, detections, config.pictures
            )
        return figures

    def detect(self, network: DetectorNetwork) -> Detections:
        """What this rank's share of val comes to; of whole recordings if state is carried."""
        device, shard = next(network.parameters()).device, (self.ranks.rank, self.ranks.world)
        rule, workers = self.config.detect, self.config.workers
        if self.config.stream.clip:
            return detect_streams(network, self.dataset, rule, workers, device, shard)
        batch_size = self.config.batch_size
        return detect(network, self.dataset, rule, batch_size, workers, device, shard)


def merged(shares: Sequence[Detections]) -> Detections:
    """The detections of all ranks, per recording in order of time, as one process has them."""
    together = {name: np.concatenate([share[name] for share in shares]) for name in shares[0]}
    return {name: boxes[boxes["t"].argsort(kind="stable")] for name, boxes in together.items()}


def show_validation(
    logbook: Logbook,
    epoch: int,
    model: DetectorNetwork,
    val_set: HistogramDataset,
    detections: Detections,
    pictures: int,
) -> dict[str, float]:
    """Log `pictures` label times with boxes, and the firing rates of a spiking model on them.

    Without pictures, rates are those of FIRING_SAMPLES label times. Returns what an inference costs
    there, see `tell_of_firing`.
    """
    if pictures:
        figure = detections_figure(val_set, detections, spread_out(len(val_set), pictures))
        logbook.add_picture("val", figure, epoch)
    batch = collate([val_set[k] for k in spread_out(len(val_set), pictures or FIRING_SAMPLES)])
    return tell_of_firing(model, batch.network_input(), epoch, logbook)


#: Gen1 names a recording by its date and time: one name is one recording.
DATED = re.compile(r"\d\d-\d\d-\d\d_\d\d-\d\d-\d\d_\d+_\d+")


def refuse_leaks(splits: Mapping[str, Mapping[str, str]]) -> None:
    """ValueError for a recording of train that is in another split too.

    splits: {split: {recording: hash of its events}}. The same events are the same recording
    whatever their names, and so is the same dated name whatever its bytes.
    """
    train = splits["train"]
    by_hash = {content: name for name, content in train.items()}
    for split in splits.keys() - {"train"}:
        for name, content in splits[split].items():
            if content in by_hash:
                raise ValueError(
                    f"{split}/{name} has the events of train/{by_hash[content]}: "
                    f"expected no recording in two splits"
                )
            if name in train and DATED.search(name):
                raise ValueError(f"{split}/{name} is in train too, expected it in one split only")


def event_hashes(cache: Path, recordings: dict[str, Any]) -> dict[str, dict[str, str]]:
    """{split: {recording: hash of its events}} of a whole cache, from its files' headers."""
    hashes: dict[str, dict[str, str]] = {}
    for split, names in recordings.items():
        hashes[split] = {}
        for name in names:
            with open_cache(cache / split / f"{name}.h5") as file:
                hashes[split][name] = read_header(file).sources[0].content_sha256
    return hashes
