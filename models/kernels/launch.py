"""Compile ilif.cu with CuPy at first use and launch it on torch's tensors, device and stream.

CuPy is imported inside the functions only: nobody without a GPU needs it.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("ilif.cu")
THREADS = 128  # per block
OWNED = 8  # neurons per thread
VECTOR_BYTES = 16  # one memory access

CUPY_INSTALLED = importlib.util.find_spec("cupy") is not None

#: torch's dtype -> (its name in ilif.cu, the dtype of membranes)
SCALARS = {
    torch.float32: ("float", torch.float32),
    torch.float16: ("Half", torch.float32),
    torch.bfloat16: ("BFloat16", torch.float32),
    torch.float64: ("double", torch.float64),
}

Argument = Tensor | int | float | None
Kernel = Callable[[tuple[int], tuple[int], tuple[Any, ...]], None]


def obstacle(device_type: str) -> str | None:
    """Why the kernels cannot run on tensors of this device, as a clause; None if they can."""
    if device_type != "cuda":
        return f"the tensor is on the {device_type}, not on a CUDA device"
    if not CUPY_INSTALLED:
        return "CuPy is not installed (pip install cupy-cuda12x, or cupy-cuda13x)"
    return None


def blocks(neurons: int) -> int:
    return -(-neurons // (THREADS * OWNED))


def launch(
    kernel: str,
    time_steps: int,
    neurons: int,
    hard_reset: bool,
    arguments: Sequence[Argument],
) -> None:
    """Run a kernel of ilif.cu on the device of its first argument, behind torch's current stream.

    Tensors are passed as pointers (None as null), int as 64 bits, float in the membranes' type.
    """
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    first = tensors[0]
    scalar, membrane = SCALARS[first.dtype]
    lanes = VECTOR_BYTES // first.element_size()
    vectorised = neurons % lanes == 0 and all(t.data_ptr() % VECTOR_BYTES == 0 for t in tensors)
    real = np.float64 if membrane == torch.float64 else np.float32
    packed = tuple(_packed(argument, real) for argument in arguments)
    run = compiled(kernel, scalar, time_steps, vectorised, hard_reset)
    with current_stream(first.device):
        run((blocks(neurons),), (THREADS,), packed)


def _packed(argument: Argument, real: type[np.floating]) -> np.generic:
    if isinstance(argument, Tensor):
        return np.uint64(argument.data_ptr())
    if argument is None:
        return np.uint64(0)
    return real(argument) if isinstance(argument, float) else np.int64(argument)


def options(scalar: str, time_steps: int, vectorised: bool, hard_reset: bool) -> tuple[str, ...]:
    """What ilif.cu asks of its compiler."""
    return (
        "-std=c++17",
        "--fmad=false",
        f"-DSCALAR={scalar}",
        f"-DTIME_STEPS={time_steps}",
        f"-DVECTORISED={int(vectorised)}",
        f"-DHARD_RESET={int(hard_reset)}",
    )


@functools.cache
def compiled(
    kernel: str, scalar: str, time_steps: int, vectorised: bool, hard_reset: bool
) -> Kernel:
    """Raises ValueError if CuPy, its compiler or the driver fails."""
    given = options(scalar, time_steps, vectorised, hard_reset)
    try:
        import cupy

        return cupy.RawModule(code=SOURCE.read_text(), options=given).get_function(kernel)
    except Exception as error:  # of CuPy, of the compiler, of the driver, of the dynamic loader
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"backend 'cupy' cannot run: {type(error).__name__} from CuPy ({reason}); "
            "backend 'spikingjelly' needs none"
        ) from error


@contextmanager
def current_stream(device: torch.device) -> Iterator[None]:
    """Inside the block, CuPy works on `device` and on torch's current stream there."""
    import cupy

    stream = torch.cuda.current_stream(device)
    # ExternalStream is deprecated since CuPy 14, but all that CuPy 13 has.
    with (
        cupy.cuda.Device(stream.device_index),
        cupy.cuda.ExternalStream(stream.cuda_stream, stream.device_index),
    ):
        yield
