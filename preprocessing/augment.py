"""Seeded augmentation that moves a histogram and its boxes together.

Frames move by whole pixels (nearest neighbour through integer index maps): counts are copied,
never blended, and every polarity stays in its channel.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class AugmentConfig:
    """What may happen to a training sample. All zero with zooms of 1 leaves it as it is.

    Args:
        flip: probability of mirroring left and right, in [0, 1].
        zoom_min: smallest magnification about the frame's centre, > 0 (below 1 shrinks).
        zoom_max: largest magnification; drawn uniformly between the two.
        shift: largest displacement either way, as a fraction of the frame's side, in [0, 1].
        event_drop: largest share of events removed (tonic's DropEvent), drawn from 0, in [0, 1].
        min_side: a moved box with a side below this is dropped, in px of the frame.
        min_visible: a moved box with less of its area in the frame is dropped, in [0, 1].
    """

    flip: float = 0.5
    zoom_min: float = 0.8
    zoom_max: float = 1.25
    shift: float = 0.1
    event_drop: float = 0.0
    min_side: float = 2.0
    min_visible: float = 0.25

    def __post_init__(self) -> None:
        for name in ("flip", "shift", "event_drop", "min_visible"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        if not 0 < self.zoom_min <= self.zoom_max:
            found = f"zoom_min {self.zoom_min} and zoom_max {self.zoom_max}"
            raise ValueError(f"{found} were given, expected 0 < zoom_min <= zoom_max")
        if self.min_side < 0:
            raise ValueError(f"min_side is {self.min_side} px, expected 0 or more")


class Motion(NamedTuple):
    """Mirrored, then scaled, then displaced; offsets in px of the frame."""

    flip: bool
    zoom: float
    offset_x: float
    offset_y: float


def augment(
    frames: np.ndarray, boxes_xyxy: np.ndarray, config: AugmentConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw one augmentation and apply it; the inputs are not modified.

    frames: uint8 [T, 2, H, W]; boxes_xyxy: float [n, 4] in px of those frames.
    Returns the new frames, all n boxes moved and clipped to the frame, and the mask [n] of
    those worth keeping: sides of min_side px or more and min_visible of the area still seen.
    """
    height, width = frames.shape[-2:]
    motion, drop = draw(config, height, width, rng)
    frames = move_frames(frames, *motion)
    if drop > 0:
        frames = drop_events(frames, drop, rng)
    moved = move_boxes(boxes_xyxy, width, *motion)
    clipped = np.clip(moved, 0, np.array([width, height, width, height], moved.dtype))
    sides = clipped[:, 2:] - clipped[:, :2]
    area = (moved[:, 2:] - moved[:, :2]).prod(axis=1)
    visible = sides.prod(axis=1) >= config.min_visible * area
    return frames, clipped, visible & (sides >= config.min_side).all(axis=1)


def draw(
    config: AugmentConfig, height: int, width: int, rng: np.random.Generator
) -> tuple[Motion, float]:
    """How a frame of that size moves, and the share of events to remove."""
    flip = bool(rng.random() < config.flip)
    zoom = rng.uniform(config.zoom_min, config.zoom_max)
    offset_x, offset_y = (
        side * (1 - zoom) / 2 + side * rng.uniform(-config.shift, config.shift)
        for side in (width, height)
    )
    return Motion(flip, zoom, offset_x, offset_y), rng.uniform(0, config.event_drop)


def move_frames(
    frames: np.ndarray,
    flip: bool,
    zoom: float,
    offset_x: float,
    offset_y: float,
    background: int = 0,
) -> np.ndarray:
    """Mirror, then scale by zoom and displace by the offsets in px; `background` beside it."""
    height, width = frames.shape[-2:]
    rows, source_rows = _index_map(height, zoom, offset_y)
    columns, source_columns = _index_map(width, zoom, offset_x)
    if flip:
        source_columns = width - 1 - source_columns
    moved = np.full_like(frames, background)
    moved[..., rows, columns] = frames.take(source_rows, axis=-2).take(source_columns, axis=-1)
    return moved


def move_boxes(
    boxes_xyxy: np.ndarray, width: int, flip: bool, zoom: float, offset_x: float, offset_y: float
) -> np.ndarray:
    """The same movement for corners [n, 4], not clipped."""
    x1, y1, x2, y2 = boxes_xyxy.T
    if flip:
        x1, x2 = width - x2, width - x1
    moved = [x1 * zoom + offset_x, y1 * zoom + offset_y, x2 * zoom + offset_x, y2 * zoom + offset_y]
    return np.stack(moved, axis=1).astype(boxes_xyxy.dtype)


def drop_events(frames: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Remove a share of the events: every count is that many events to tonic's DropEvent.

    tonic (GPL-3, slow to import) is loaded here and nowhere else. It draws from NumPy's global
    generator, which is seeded from rng for the call and put back afterwards.
    """
    from tonic.functional import drop_event_numpy

    cells = np.flatnonzero(frames)
    events = np.repeat(cells, frames.reshape(-1)[cells])
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(rng.integers(2**32))  # noqa: NPY002
    try:
        kept = drop_event_numpy(events, share)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return np.bincount(kept, minlength=frames.size).astype(frames.dtype).reshape(frames.shape)


def _index_map(side: int, zoom: float, offset: float) -> tuple[slice, np.ndarray]:
    """The pixels of an axis that show something, and the source pixel of each."""
    source = np.floor((np.arange(side) + 0.5 - offset) / zoom).astype(np.int64)
    first, last = np.searchsorted(source, [0, side])
    return slice(first, last), source[first:last]
