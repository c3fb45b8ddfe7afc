"""The I-LIF kernels as torch operators: autograd, amp, torch.compile and CUDA graphs see through.

Tensors are taken in any dense layout in which the time step varies slowest, contiguous and
channels_last among them; others are copied once. Outputs have the layout of x.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.kernels.launch import OWNED, SCALARS, THREADS, blocks, launch

BITS_PER_BYTE = 8
assert OWNED == BITS_PER_BYTE, "a thread's surrogate window is one byte"


def ilif(
    x: Tensor,
    v: Tensor | None = None,
    max_spikes: int = 4,
    decay: float = 0.25,
    input_scale: float = 1.0,
    detach_reset: bool = True,
    keep_state: bool = True,
    spike_value: float = 1.0,
    hard_reset: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Spike counts of x [T, ...] and, with `keep_state`, the final membrane [...].

    Neurons start at membrane v [...], or at rest. Differentiable in x and v. Counts come times
    `spike_value`: 1 / D for normalised spikes. `hard_reset` makes it the binary neuron of
    EMS-YOLO, of max_spikes 1. Raises ValueError for an element type that has no kernel.
    Equations: models.neuron.ILIFNode, models.ems.neuron.LIFNode.
    """
    membrane = membrane_dtype(x)
    require_binary(hard_reset, max_spikes)
    require_shapes({"v": (v, x.shape[1:])})
    v = v if v is None else v.to(membrane)
    differentiable = torch.is_grad_enabled() and (
        x.requires_grad or (v is not None and v.requires_grad)
    )
    spikes, state, _ = ilif_forward(
        x, v, max_spikes, decay, input_scale, detach_reset,
        keep_state, differentiable, spike_value, hard_reset,
    )  # fmt: skip
    return spikes, state if keep_state else None


def membrane_dtype(x: Tensor) -> torch.dtype:
    if x.dtype not in SCALARS:
        known = ", ".join(str(dtype) for dtype in SCALARS)
        raise ValueError(f"the I-LIF kernel got a tensor of {x.dtype}, expected one of {known}")
    return SCALARS[x.dtype][1]


def require_binary(hard_reset: bool, max_spikes: int) -> None:
    if hard_reset and max_spikes != 1:
        raise ValueError(f"max_spikes is {max_spikes}, expected 1 with a hard reset")


def require_shapes(given: dict[str, tuple[Tensor | None, Sequence[int]]]) -> None:
    for name, (tensor, shape) in given.items():
        if tensor is not None and tensor.shape != tuple(shape):
            found = f"{name} has shape {tuple(tensor.shape)}"
            raise ValueError(f"{found}, the input needs {tuple(shape)}")


# --- layout ---------------------------------------------------------------------------------------


def steps_layout(x: Tensor) -> list[int]:
    """x's strides if its steps are dense and follow one another, else contiguous strides."""
    expected = 1
    axes = [(stride, size) for stride, size in zip(x.stride(), x.shape, strict=True) if size != 1]
    for stride, size in sorted(axes):
        if stride != expected:
            return contiguous_strides(x.shape)
        expected *= size
    slowest = x.shape[0] == 1 or x.stride(0) * x.shape[0] == x.numel()
    return list(x.stride()) if slowest else contiguous_strides(x.shape)


def contiguous_strides(shape: Sequence[int]) -> list[int]:
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return strides


def in_layout(tensor: Tensor, strides: Sequence[int]) -> Tensor:
    """`tensor` itself if it has these strides (those of axes of size 1 aside), else a copy."""
    pairs = zip(tensor.shape, tensor.stride(), strides, strict=True)
    if all(size == 1 or stride == wanted for size, stride, wanted in pairs):
        return tensor
    return torch.empty_strided(
        tensor.shape, strides, dtype=tensor.dtype, device=tensor.device
    ).copy_(tensor)


def new(x: Tensor, shape: Sequence[int], strides: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(shape, strides, dtype=dtype, device=x.device)


def new_state(x: Tensor, strides: Sequence[int], wanted: bool) -> Tensor:
    shape = x.shape[1:] if wanted else (0,)
    return new(x, shape, strides[1:] if wanted else (1,), SCALARS[x.dtype][1])


# --- operators ------------------------------------------------------------------------------------


def forward_outputs(
    x: Tensor, keep_state: bool, keep_window: bool, hard_reset: bool
) -> tuple[list[int], tuple[Tensor, Tensor, Tensor]]:
    """Layout, then empty spikes, state and window; those not wanted have no elements."""
    strides = steps_layout(x)
    threads = blocks(x[0].numel()) * THREADS if keep_window else 0
    rows = x.shape[0] * (2 if hard_reset else 1)  # the window's, then those of who fired
    window = torch.empty((rows, threads), dtype=torch.uint8, device=x.device)
    spikes = new(x, x.shape, strides, x.dtype)
    return strides, (spikes, new_state(x, strides, keep_state), window)


@torch.library.custom_op("spikeyolo_gen1::ilif_forward", mutates_args=())
def ilif_forward(
    x: Tensor,
    v: Tensor | None,
    max_spikes: int,
    decay: float,
    input_scale: float,
    detach_reset: bool,
    keep_state: bool,
    keep_window: bool,
    spike_value: float = 1.0,
    hard_reset: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes [T, ...], final membrane [...] and surrogate window, one bit per element.

    With `hard_reset` a second bit per element, behind the window, says who fired.
    """
    strides, outputs = forward_outputs(x, keep_state, keep_window, hard_reset)
    spikes, state, window = outputs
    if x.numel() == 0:
        return outputs
    arguments = (
        in_layout(x, strides),
        None if v is None else in_layout(v, strides[1:]),
        spikes,
        window if keep_window else None,
        state if keep_state else None,
        x[0].numel(),
        float(max_spikes),
        float(decay),
        float(input_scale),
        float(spike_value),
    )
    launch("ilif_forward", x.shape[0], x[0].numel(), hard_reset, arguments)
    return outputs


@ilif_forward.register_fake
def _(
    x, v, max_spikes, decay, input_scale, detach_reset,
    keep_state, keep_window, spike_value=1.0, hard_reset=False,
):  # fmt: skip
    return forward_outputs(x, keep_state, keep_window, hard_reset)[1]


@torch.library.custom_op("spikeyolo_gen1::ilif_backward", mutates_args=())
def ilif_backward(
    grad_spikes: Tensor,
    window: Tensor,
    grad_v: Tensor | None,
    strides: Sequence[int],
    decay: float,
    input_scale: float,
    detach_reset: bool,
    keep_grad_v: bool,
    spike_value: float = 1.0,
    hard_reset: bool = False,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the initial membrane; `strides` is the layout x had."""
    grad_x = new(grad_spikes, grad_spikes.shape, strides, grad_spikes.dtype)
    grad_initial = new_state(grad_spikes, strides, keep_grad_v)
    if grad_spikes.numel() == 0:
        return grad_x, grad_initial
    neurons = grad_spikes[0].numel()
    arguments = (
        in_layout(grad_spikes, strides),
        window,
        None if grad_v is None else in_layout(grad_v, strides[1:]),
        grad_x,
        grad_initial if keep_grad_v else None,
        neurons,
        float(decay),
        float(input_scale),
        float(spike_value),
        int(detach_reset),
    )
    launch("ilif_backward", grad_spikes.shape[0], neurons, hard_reset, arguments)
    return grad_x, grad_initial


@ilif_backward.register_fake
def _(
    grad_spikes, window, grad_v, strides,
    decay, input_scale, detach_reset, keep_grad_v, spike_value=1.0, hard_reset=False,
):  # fmt: skip
    grad_x = new(grad_spikes, grad_spikes.shape, strides, grad_spikes.dtype)
    return grad_x, new_state(grad_spikes, strides, keep_grad_v)


def setup_context(ctx, inputs, output) -> None:
    x, v, _max_spikes, ctx.decay, ctx.input_scale, ctx.detach_reset = inputs[:6]
    ctx.keep_state, _keep_window, ctx.spike_value, ctx.hard_reset = inputs[6:]
    spikes, _state, window = output
    ctx.save_for_backward(window)
    ctx.set_materialize_grads(False)
    ctx.like_spikes = {"size": x.shape, "dtype": x.dtype, "device": x.device}
    ctx.strides = list(spikes.stride())
    ctx.has_initial = v is not None


def backward(ctx, grad_spikes, grad_state, _grad_window):
    if grad_spikes is None:
        grad_spikes = torch.zeros(**ctx.like_spikes)
    grad_x, grad_v = ilif_backward(
        grad_spikes,
        ctx.saved_tensors[0],
        grad_state if ctx.keep_state else None,
        ctx.strides,
        ctx.decay,
        ctx.input_scale,
        ctx.detach_reset,
        ctx.has_initial,
        ctx.spike_value,
        ctx.hard_reset,
    )
    return grad_x, grad_v if ctx.has_initial else None, *[None] * 8


torch.library.register_autograd(
    "spikeyolo_gen1::ilif_forward", backward, setup_context=setup_context
)
