"""Where a network runs."""

import torch


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is a GPU; ValueError for a GPU that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device is {name!r}, but torch finds no usable GPU")
    try:
        return torch.device(name)
    except RuntimeError:
        raise ValueError(f"device is {name!r}, expected auto, cpu or cuda") from None
