"""How the published run of size s went on COCO: what a run of one's own compares with.

Source: the SpikeYOLO authors' released log of their 23M run, val2017, 300 epochs; mAP as
ultralytics counts it, which is near COCO's own on COCO and flatters on small sets.
"""

import numpy as np

#: Epoch, counted from 1 -> mAP@50, mAP@50:95.
CURVE = {
    1: (0.000, 0.000),
    5: (0.165, 0.096),
    10: (0.257, 0.163),
    20: (0.375, 0.253),
    30: (0.464, 0.323),
    50: (0.520, 0.369),
    100: (0.560, 0.401),
    150: (0.580, 0.418),
    200: (0.595, 0.431),
    250: (0.613, 0.446),
    290: (0.621, 0.453),
    300: (0.622, 0.454),
}
COCO_CLASSES = 80


def at(epoch: int) -> tuple[float, float]:
    """mAP@50 and mAP@50:95 after so many epochs, between those of the log."""
    epochs, values = [*CURVE], np.array([*CURVE.values()])
    map_50, map_50_95 = (float(np.interp(epoch, epochs, values[:, k])) for k in (0, 1))
    return map_50, map_50_95


def in_words(epoch: int, figures: dict[str, float]) -> str:
    """A run's own figures after so many epochs, beside the published ones."""
    map_50, map_50_95 = at(epoch)
    ours = f"mAP@50 {figures['val_map_50']:.3f}, mAP@50:95 {figures['val_map_50_95']:.3f}"
    theirs = f"{map_50:.3f} and {map_50_95:.3f} of size s (ultralytics AP)"
    return f"after epoch {epoch}: {ours}; published: {theirs}"
