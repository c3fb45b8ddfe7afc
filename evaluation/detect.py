"""A split of a cache, as a network reads it -> the boxes it finds."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler
from tqdm import tqdm

from gen1.spec import BOX, GEN1, DatasetSpec
from models.decode import DetectConfig, non_max_suppression
from models.detector import DetectorConfig, DetectorNetwork
from preprocessing.dataset import HistogramDataset, Loader
from preprocessing.geometry import as_boxes
from preprocessing.histogram import HistogramSettings
from preprocessing.inputs import check_input, input_geometry

#: Recording -> BOX [n] in sensor px, ordered by time.
Detections = dict[str, np.ndarray]


def spread_out(samples: int, count: int) -> list[int]:
    """Indices of `count` of so many samples, all of them at most, evenly over the split."""
    return np.linspace(0, samples - 1, min(count, samples)).astype(int).tolist()


def open_split(
    cache: str | Path,
    split: str,
    config: DetectorConfig,
    settings: HistogramSettings,
    input: str,
    spec: DatasetSpec = GEN1,
    **options: Any,
) -> HistogramDataset:
    """The split of a cache made with `settings`, as the network `config` reads it.

    Raises ValueError for other classes than those of `spec`, which it was trained on, and for
    labels of a class that it does not know.
    """
    check_input(config.in_channels, config.time_steps, settings, input)
    options |= {"settings": settings, "input": input}
    options |= {"classes": spec.classes, "num_classes": config.num_classes}
    dataset = HistogramDataset(cache, split, input_geometry(settings, input), **options)
    if config.num_classes > len(spec.classes):
        found = f"the model was built for {config.num_classes} classes"
        expected = f"{len(spec.classes)} at most: {', '.join(spec.classes)}"
        raise ValueError(f"{found}, expected {expected}")
    return dataset


@torch.no_grad()
def detect(
    model: DetectorNetwork,
    dataset: HistogramDataset,
    config: DetectConfig,
    batch_size: int,
    workers: int,
    device: torch.device,
    shard: tuple[int, int] = (0, 1),
) -> Detections:
    """Boxes found at every label time.

    `shard` (k, n) takes every n-th batch from the k-th on, so that n processes share the work.
    """
    found: dict[str, list[np.ndarray]] = {name: [] for name in dataset.recordings}
    first, step = shard
    mine = list(BatchSampler(range(len(dataset)), batch_size, drop_last=False))[first::step]
    model.eval()
    batches = Loader(dataset, mine, workers)
    for batch in tqdm(batches, "detecting", unit="batch", leave=False, disable=None):
        boxes, scores = model.decode([m.float() for m in model(batch.to(device).network_input())])
        per_image = non_max_suppression(boxes, scores, **asdict(config))
        for name, t_us, rows in zip(batch.recordings, batch.times_us, per_image, strict=True):
            found[name].append(as_boxes(rows.cpu().numpy(), int(t_us), dataset.geometry))
    empty = np.empty(0, BOX)
    return {name: np.concatenate([empty, *parts]) for name, parts in found.items()}
