"""A network's classes of every pixel of a split, and how they agree with the masks."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from models.detector import DetectorNetwork
from preprocessing.dataset import Loader
from segmentation.framing import Size
from segmentation.score import Confusion
from segmentation.sources import ToScore


@torch.no_grad()
def predicted(
    model: DetectorNetwork, batch: Any, source: ToScore, labels: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The classes of every px of a batch's samples, uint8 [H, W] each, as large as its labels.

    Scores become as large as what was fed, then, without its border, as large as the mask.
    """
    x = batch.to(next(model.parameters()).device).network_input()
    size, parts = source.placed(batch)
    every: Any = model.decode([m.float() for m in model(x)], size)  # type: ignore[call-arg]
    found = []
    for scores, (height, width), mask in zip(every, parts, labels, strict=True):
        scores, wanted = scores[None, :, :height, :width], mask.shape
        if wanted != (height, width):
            scores = F.interpolate(scores, wanted, mode="bilinear", align_corners=False)
        found.append(scores[0].argmax(0).to(torch.uint8).cpu().numpy())
    return found


def confusion_of(
    model: DetectorNetwork,
    source: ToScore,
    batch_size: int,
    workers: int,
    shard: tuple[int, int] = (0, 1),
) -> Confusion:
    """Which class was taken for which, over all samples, at the size of their masks.

    `shard` (k, n) takes every n-th batch from the k-th on, so that n processes share the work.
    """
    found = Confusion(source.spec.classes)
    first, step = shard
    mine = cut(source, range(len(source)), batch_size)[first::step]
    model.eval()
    batches = Loader(source, mine, workers, source.stack)  # type: ignore[arg-type]
    shown = tqdm(batches, "segmenting", unit="batch", leave=False, disable=None)
    for indices, batch in zip(mine, shown, strict=True):
        labels = [source.mask(index) for index in indices]
        for classes, mask in zip(predicted(model, batch, source, labels), labels, strict=True):
            found.add(classes, mask)
    return found


def cut(source: ToScore, indices: Iterable[int], batch_size: int) -> list[list[int]]:
    """Batches of samples whose canvases are equal: a border would change what the network sees."""
    alike: dict[Size, list[int]] = {}
    for index in indices:
        alike.setdefault(source.canvas(index), []).append(index)
    return [
        same[k : k + batch_size] for same in alike.values() for k in range(0, len(same), batch_size)
    ]
