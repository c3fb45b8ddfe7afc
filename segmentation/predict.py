"""A network's classes of every pixel of a split, and how they agree with the masks."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler
from tqdm import tqdm

from models.detector import DetectorNetwork
from preprocessing.dataset import Loader
from segmentation.dataset import MaskDataset, stack
from segmentation.score import Confusion


@torch.no_grad()
def predicted(model: DetectorNetwork, x: Tensor, dataset: MaskDataset) -> Tensor:
    """Frames [T, B, C, H, W] -> classes uint8 [B, H, W] at the sensor's size."""
    factor, (height, width) = dataset.settings.downsample, dataset.sensor_hw
    padded = [side * factor for side in x.shape[-2:]]
    scores: Any = model.decode([m.float() for m in model(x)], tuple(padded))  # type: ignore[call-arg]
    return scores[..., :height, :width].argmax(1).to(torch.uint8)


def confusion_of(
    model: DetectorNetwork,
    dataset: MaskDataset,
    batch_size: int,
    workers: int,
    shard: tuple[int, int] = (0, 1),
) -> Confusion:
    """Which class was taken for which, over all samples, at the sensor's size.

    `shard` (k, n) takes every n-th batch from the k-th on, so that n processes share the work.
    """
    found, device = Confusion(dataset.spec.classes), next(model.parameters()).device
    first, step = shard
    mine = list(BatchSampler(range(len(dataset)), batch_size, drop_last=False))[first::step]
    model.eval()
    batches = Loader(dataset, mine, workers, stack)
    shown = tqdm(batches, "segmenting", unit="batch", leave=False, disable=None)
    for indices, batch in zip(mine, shown, strict=True):
        classes = predicted(model, batch.to(device).network_input(), dataset)
        labels = np.stack([dataset.mask(index) for index in indices])
        found.add(classes.cpu(), labels)
    return found


def spread_out(dataset: MaskDataset, count: int) -> list[int]:
    """Indices of `count` samples, evenly over the split; all for 0."""
    wanted = min(count or len(dataset), len(dataset))
    return np.linspace(0, len(dataset) - 1, wanted).astype(int).tolist()
