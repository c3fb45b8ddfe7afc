"""Whole recordings, window after window with the state carried -> boxes, as a stream has them."""

from dataclasses import asdict

import numpy as np
import torch
from spikingjelly.activation_based import functional
from tqdm import tqdm

from evaluation.detect import Detections
from gen1.spec import BOX
from models.decode import DetectConfig, non_max_suppression
from models.deploy import deploy
from models.detector import DetectorNetwork
from models.memory.carried import refuse_stateless
from preprocessing.dataset import HistogramDataset, Loader
from preprocessing.geometry import as_boxes


def refuse_uncarried(dataset: HistogramDataset) -> None:
    """ValueError for windows that overlap or leave a gap: state cannot be carried over them."""
    window_us, every_us = dataset.settings.window_us, dataset.settings.every_us
    ms = window_us / 1000
    made = f"python -m preprocessing --window-ms {ms:g} --every-ms {ms:g}"
    expected = f"expected one every {window_us} us ({made})"
    if not every_us:  # a stream has its windows elsewhere, even if labels lie as far apart
        found = f"windows that end at label times ({dataset.settings.sampling})"
        raise ValueError(f"{dataset.name}: {found}, {expected}")
    for name in dataset.recordings:
        times_us = dataset.times_us(name)
        steps_us = np.diff(times_us)
        for is_wrong, what in ((steps_us < window_us, "overlaps"), (steps_us > window_us, "gap")):
            if not is_wrong.any():
                continue
            row = int(np.argmax(is_wrong))
            here, there_us = f"the window that ends at {times_us[row]} us", times_us[row + 1]
            found = f"a gap between {here} and that of {there_us} us"
            if what == "overlaps":
                found = f"{here} overlaps that of {there_us} us, so that events would count twice"
            raise ValueError(f"{dataset.name}: recording {name}: {found}; {expected}")


@torch.no_grad()
def detect_streams(
    model: DetectorNetwork,
    dataset: HistogramDataset,
    config: DetectConfig,
    workers: int,
    device: torch.device,
    shard: tuple[int, int] = (0, 1),
) -> Detections:
    """Boxes of every window of every recording, the state carried through each from rest.

    The deployed network, a window at a time: the boxes of `detect_gen1.py --carry-state`. `shard`
    (k, n) takes every n-th recording from the k-th on; the others are without boxes. Raises
    ValueError for a network without state and for windows it cannot be carried over.
    """
    refuse_stateless(model, "carry_state")
    refuse_uncarried(dataset)
    network = deploy(model).to(device)
    network.carry_state = True
    first, step = shard
    mine = set(dataset.recordings[first::step])
    rows = [[i] for i, (name, _) in enumerate(dataset.label_times) if name in mine]
    found: dict[str, list[np.ndarray]] = {name: [] for name in dataset.recordings}
    before = None
    batches = Loader(dataset, rows, workers)
    for batch in tqdm(batches, "detecting", unit="window", leave=False, disable=None):
        (name,) = batch.recordings
        if name != before:
            functional.reset_net(network)
        before = name
        maps = network(batch.to(device).network_input())
        boxes, scores = network.decode([m.float() for m in maps])
        (kept,) = non_max_suppression(boxes, scores, **asdict(config))
        t_us = int(batch.times_us[0])
        found[name].append(as_boxes(kept.cpu().numpy(), t_us, dataset.geometry))
    empty = np.empty(0, BOX)
    return {name: np.concatenate([empty, *parts]) for name, parts in found.items()}
