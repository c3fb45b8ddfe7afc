"""Mask pictures -> classes, at the sensor's or picture's size and below it."""

from pathlib import Path

import numpy as np
from PIL import Image

from preprocessing.geometry import Geometry
from segmentation.spec import IGNORED, MaskSpec

#: Modes of PIL whose values are numbers of 8 bits; P: places in a palette.
EIGHT_BITS = ("L", "P")
WHAT_MODES_ARE = {"I;16": "of 16 bits", "I": "of 16 bits", "1": "of 1 bit", "F": "of 32 bits"}


def read_mask(path: Path, spec: MaskSpec, hw: tuple[int, int] | None = None) -> np.ndarray:
    """Classes uint8 [H, W] of a mask file, IGNORED among them.

    Raises ValueError, naming the file, for no picture of 8 bits, a size other than `hw`, and
    numbers that mean nothing.
    """
    try:
        with Image.open(path) as file:
            mode = file.mode
            numbers = np.asarray(file)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: is no readable mask ({reason}), expected a PNG") from None
    if mode not in EIGHT_BITS:
        found = WHAT_MODES_ARE.get(mode, "of colours")
        found = "of 16 bits" if mode.startswith("I;16") else found
        raise ValueError(f"{path}: is {found} ({mode}), expected 8 bits that are class numbers")
    if hw is not None and numbers.shape != hw:
        found, expected = ("{}x{}".format(*size) for size in (numbers.shape, hw))
        raise ValueError(f"{path}: is a mask of {found} px, expected {expected}")
    return spec.classify(numbers, str(path))


def padded_rows(mask: np.ndarray, height: int) -> np.ndarray:
    """uint8 [h, W] -> uint8 [height, W]: the rows below, that nobody labelled, are IGNORED."""
    whole = np.full((height, mask.shape[1]), IGNORED, np.uint8)
    whole[: len(mask)] = mask
    return whole


def at_sensor(classes: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Classes [..., network_hw] -> [..., height, width] of the sensor: padding off, cells spread.

    The inverse of what a mask goes through, for scores at the size of the labels.
    """
    height, width = geometry.frame_hw
    seen = classes[..., :height, :width]
    return seen.repeat(geometry.downsample, axis=-2).repeat(geometry.downsample, axis=-1)


def downsampled(mask: np.ndarray, factor: int) -> np.ndarray:
    """uint8 [H, W] -> uint8 [H / factor, W / factor]: the pixel nearest to each cell's centre."""
    middle = factor // 2
    return np.ascontiguousarray(mask[middle::factor, middle::factor])
