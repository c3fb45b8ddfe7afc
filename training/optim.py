"""Optimizer, and its learning rate as a pure function of the step."""

import math
from dataclasses import dataclass

import torch
from torch import nn

NOMINAL_BATCH = 64


@dataclass(frozen=True)
class OptimConfig:
    """The authors' Gen1 recipe by default (SpikeYOLO, ECCV 2024).

    Args:
        name: "sgd" (Nesterov) or "adamw".
        lr: Learning rate after warm-up.
        final_lr: Learning rate of the last epoch, as a share of lr.
        schedule: "linear" or "cosine", from lr to lr * final_lr, one value per epoch.
        momentum: SGD's momentum, or AdamW's beta1.
        weight_decay: Decay of convolution weights alone; SGD's is scaled by batch / 64.
        warmup_epochs: Epochs over which the rate rises from 0.
        warmup_bias_lr: Where biases start instead, falling to lr.
        warmup_momentum: Where momentum starts.
        clip: Largest gradient norm; 0 leaves gradients alone.
        accumulate: Batches whose gradients are added before a step.
        ema_decay: Decay of the averaged weights that are evaluated and kept.
        ema_tau: Steps over which that decay rises from 0.
    """

    name: str = "sgd"
    lr: float = 0.02
    final_lr: float = 0.004
    schedule: str = "linear"
    momentum: float = 0.937
    weight_decay: float = 5e-4
    warmup_epochs: float = 10.0
    warmup_bias_lr: float = 0.1
    warmup_momentum: float = 0.8
    clip: float = 10.0
    accumulate: int = 1
    ema_decay: float = 0.9999
    ema_tau: float = 2000.0

    def __post_init__(self) -> None:
        if self.name not in ("sgd", "adamw"):
            raise ValueError(f"optim.name is {self.name!r}, expected sgd or adamw")
        if self.schedule not in ("linear", "cosine"):
            raise ValueError(f"optim.schedule is {self.schedule!r}, expected linear or cosine")
        if self.accumulate < 1:
            raise ValueError(f"optim.accumulate is {self.accumulate}, expected 1 or more")


def build_optimizer(
    model: nn.Module, config: OptimConfig, batch_size: int
) -> torch.optim.Optimizer:
    """Three groups: convolution weights (decayed), norm weights, and `biases`."""
    convolutions: list[nn.Parameter] = []
    norms: list[nn.Parameter] = []
    biases: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            biases.append(parameter)
        else:
            (convolutions if parameter.dim() > 1 else norms).append(parameter)
    decay = config.weight_decay
    if config.name == "sgd":
        decay *= batch_size * config.accumulate / NOMINAL_BATCH
    groups = [
        {"params": convolutions, "weight_decay": decay, "biases": False},
        {"params": norms, "weight_decay": 0.0, "biases": False},
        {"params": biases, "weight_decay": 0.0, "biases": True},
    ]
    if config.name == "sgd":
        return torch.optim.SGD(groups, config.lr, config.momentum, nesterov=True)
    return torch.optim.AdamW(groups, config.lr, betas=(config.momentum, 0.999))


def decay_factor(config: OptimConfig, epoch: int, epochs: int) -> float:
    """Share of lr in `epoch`: 1 in the first, final_lr in the last."""
    progress = epoch / max(epochs - 1, 1)
    if config.schedule == "cosine":
        progress = (1 - math.cos(math.pi * progress)) / 2
    return 1 + (config.final_lr - 1) * progress


def set_rates(
    optimizer: torch.optim.Optimizer,
    config: OptimConfig,
    step: int,
    steps_per_epoch: int,
    epochs: int,
) -> float:
    """Set every group's learning rate and momentum for this step; return the weights' rate."""
    target = config.lr * decay_factor(config, step // steps_per_epoch, epochs)
    warm = min(step / max(config.warmup_epochs * steps_per_epoch, 1e-9), 1.0)
    momentum = config.warmup_momentum + (config.momentum - config.warmup_momentum) * warm
    for group in optimizer.param_groups:
        start = config.warmup_bias_lr if group["biases"] and config.name == "sgd" else 0.0
        group["lr"] = start + (target - start) * warm
        if config.name == "sgd":
            group["momentum"] = momentum
    return optimizer.param_groups[0]["lr"]
