"""Which boxes count, when, and how near in time a detection must be: the rule behind a mAP.

Source of the figures: Perot et al., "Learning to Detect Objects with a 1 Megapixel Event
Camera", 2020, whose public toolbox scores Gen1 so.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EvalProtocol:
    """A scoring rule. A box counts if it is later than `skip_us` and large enough."""

    name: str
    skip_us: int = -1
    min_diagonal_px: float = 0.0
    min_side_px: float = 0.0
    #: Detections at most this far from a label's time, before or after, are scored with it.
    tolerance_us: int = 0
    #: Whether boxes that do not count are removed from the detections as well.
    filter_detections: bool = True

    def keep(self, boxes: np.ndarray) -> np.ndarray:
        """Which of BOX [n] count, bool [n]."""
        diagonal_squared = boxes["w"] ** 2 + boxes["h"] ** 2
        return (
            (boxes["t"] > self.skip_us)
            & (diagonal_squared >= self.min_diagonal_px**2)
            & (boxes["w"] >= self.min_side_px)
            & (boxes["h"] >= self.min_side_px)
        )


#: Published figures name one of these two; never compare across them.
PROTOCOLS = {
    "prophesee": EvalProtocol(
        "prophesee", skip_us=500_000, min_diagonal_px=30, min_side_px=10, tolerance_us=50_000
    ),
    # Every label counts; detectors are run at the very times of the labels.
    "all-boxes": EvalProtocol("all-boxes", tolerance_us=50_000),
}
