"""Histograms -> what a network reads, and what a checkpoint says about it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from gen1.spec import GEN1, DatasetSpec, spec_from
from preprocessing.geometry import Geometry, Letterbox
from preprocessing.histogram import HistogramSettings, expand_last_polarity

#: How a histogram becomes the network's input: counts as they are; 127/0/255 in three equal
#: channels; or the authors' whole recipe, letterboxed to 320x320 and newest step first.
Input = Literal["histogram", "ternary", "authors"]
INPUTS = get_args(Input)


def input_of(
    meta: Mapping[str, Any], path: str | Path
) -> tuple[HistogramSettings, str, DatasetSpec]:
    """The histograms a checkpoint was trained on, how they became its input, and of what data."""
    histogram = meta.get("histogram")
    if not histogram:
        found = "was trained on pictures" if meta.get("images") else "says of no histograms"
        raise ValueError(f"{path}: {found}, expected event histograms")
    dataset = meta.get("dataset")  # older files mean Gen1
    spec = spec_from(dataset, str(path)) if dataset else GEN1
    return HistogramSettings(**histogram), meta["input"], spec


def check_input(in_channels: int, time_steps: int, settings: HistogramSettings, input: str) -> None:
    """Refuse frames that are not what a network of in_channels and time_steps was built for."""
    channels = 2 if input == "histogram" else 3
    if channels != in_channels:
        found = f"the input {input!r} has {channels} channels"
        raise ValueError(f"{found}, the model was built for {in_channels}")
    if settings.time_steps != time_steps:
        found = f"the histograms have T={settings.time_steps} time steps"
        raise ValueError(f"{found}, the model was built for T={time_steps}")


def check_representation(settings: HistogramSettings, input: str, source: str) -> None:
    """Refuse an unknown input, and one that these histograms cannot become."""
    if input not in INPUTS:
        raise ValueError(f"input is {input!r}, expected one of {', '.join(INPUTS)}")
    if input != "histogram" and settings.representation != "last-polarity":
        found = f"{source}: representation {settings.representation}"
        raise ValueError(f"{found}, expected last-polarity for the input {input!r}")


def input_geometry(settings: HistogramSettings, input: str = "histogram") -> Geometry | Letterbox:
    """Where histograms lie in the network's input; `input` is one of INPUTS."""
    if input == "authors":
        return Letterbox(settings.height, settings.width)
    return Geometry(settings.height, settings.width, settings.downsample)


def network_frames(
    histogram: np.ndarray, geometry: Geometry | Letterbox, input: str = "histogram"
) -> np.ndarray:
    """uint8 [T, 2, H, W] -> uint8 [T, C, H', W'] at network size, C = 2 or 3; a new array."""
    if input == "histogram":
        return geometry.fit(histogram)
    frames = geometry.fit(expand_last_polarity(histogram), background=127)
    return frames[::-1].copy() if input == "authors" else frames


def network_input(frames: torch.Tensor) -> torch.Tensor:
    """uint8 [T, B, C, H, W] -> float32: counts as they are, three-channel frames in [0, 1]."""
    x = frames.float()
    return x / 255 if x.shape[2] == 3 else x
