"""The loop: what every training does, whatever it learns.

What is learnt is a `training.task.Task`; the loop knows no more of it.
"""

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from models import build_network
from models.checkpoint import load_weights
from models.detector import DetectorNetwork
from models.device import pick_device
from training.config import AMP_DTYPES, OptimConfig, RunConfig, refuse_amp
from training.log import Logbook, Progress, StepTimes, summary
from training.ranks import (
    ALONE,
    Ranks,
    batches_of_rank,
    count_batches,
    replicate,
    shuffled,
    synchronise_batch_norm,
)
from training.saving import (
    Interrupted,
    RunFiles,
    StopRequest,
    random_state,
    restore_random_state,
    seed_everything,
)
from training.task import Batch, Task

NOMINAL_BATCH = 64


class Trainer:
    """A run: network, task, and how it stands. `about`: what checkpoints say of its data."""

    def __init__(
        self,
        config: RunConfig,
        model: DetectorNetwork,
        task: Task,
        about: Mapping[str, Any],
        ranks: Ranks = ALONE,
    ) -> None:
        self.config, self.model, self.task, self.ranks = config, model, task, ranks
        self.device = pick_device(config.device)
        refuse_amp(config.amp, self.device)
        self.batches_per_epoch = count_batches(len(task.data), config.batch_size, ranks.world)
        self.frozen = freeze(model, config.freeze)
        memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.dtype = torch.float64 if config.amp == "fp64" else torch.float32
        model.to(self.device, self.dtype).to(memory_format=memory_format)  # type: ignore[call-overload]
        if ranks.world > 1 and config.sync_bn:
            synchronise_batch_norm(model)
        trained = task.stream.wrap(model) if task.stream else model
        self.network = replicate(trained, ranks, config.optim.accumulate)
        self.optimizer = build_optimizer(model, config.optim, config.batch_size)
        self.average = WeightAverage(model, config.optim.ema_decay, config.optim.ema_tau)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        seed_everything(config.seed + ranks.rank)

        self.epoch, self.batch, self.best = 0, 0, -1.0
        self.loss_sum: dict[str, float] = {}  # the parts of the loss, over the epoch so far
        self.stop = StopRequest()
        self.files = RunFiles(config, about, ranks)
        self.times = StepTimes(self.device)
        self.logbook: Logbook | None = None
        self.begun_from: dict[str, Any] = {}  # whose weights it began with, for run.json

    # ------------------------------------------------------------------ saving and continuing

    def save(self) -> None:
        """Copy what is needed to evaluate and to continue; a thread writes it as last.pt."""
        random_states = self.ranks.gather(random_state())
        state = {
            "epoch": self.epoch,
            "batch": self.batch,
            "best": self.best,
            "loss_sum": self.loss_sum,
            "weights": self.model.state_dict(),
            "average_updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_states,
        }
        if stream := self.task.stream:
            state["carried"] = self.ranks.gather(stream.state(self.model, self.batch))
        self.files.write_last(self.average.weights, self.epoch, state)

    def resume(self) -> bool:
        """Continue from the newest readable checkpoint, if there is one.

        Raises ValueError for one of other settings, of other data or of other processes.
        """
        checkpoint = self.files.read_last()
        if checkpoint is None:
            return False
        state = checkpoint.training
        load_weights(self.model, state["weights"], self.config.output)
        self.average.load(checkpoint.weights, state["average_updates"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.batch, self.best = state["epoch"], state["batch"], state["best"]
        self.loss_sum = state["loss_sum"]
        if isinstance(self.loss_sum, Tensor):  # as older runs saved it
            self.loss_sum = dict(zip(self.config.gains, self.loss_sum.tolist(), strict=True))
        if stream := self.task.stream:
            stream.put_back(self.model, state["carried"], self.ranks.rank, self.ranks.world)
        if self.ranks.rank < len(state["random"]):  # a new process draws from its own seed
            restore_random_state(state["random"][self.ranks.rank])
        return True

    def checkpoint_if_due(self) -> None:
        """Save when time has passed; save and leave when a signal asked any rank for it.

        Raises the error of a checkpoint that could not be written.
        """
        self.files.check()
        if not self.updates_after(self.batch - 1):
            return  # gradients in the making are not saved
        stop, due = self.ranks.any(self.stop.asked, self.files.is_due() and self.ranks.is_main)
        if stop or due:
            self.save()
        if stop:
            raise Interrupted

    # ------------------------------------------------------------------------------- the loop

    def run(self) -> None:
        """Train, or continue, to the end; log, save and choose the best along the way."""
        resumed = self.resume()
        if self.ranks.is_main:
            if resumed:
                place = f"at epoch {self.epoch + 1}, batch {self.batch + 1}"
                found = f"continuing {self.config.output} {place}"
                print("; ".join([found, *self.files.changes]), flush=True)
            where = {"epoch": self.epoch, "batch": self.batch, "device": str(self.device)}
            self.files.note_start({**self.task.data.identity, **self.begun_from, **where})
        self.stop.listen()
        self.ranks.finish = self.files.finish
        try:
            self.fit()
        finally:
            self.files.finish()

    def fit(self) -> None:
        """From where the run stands to its last epoch."""
        config = self.config
        if self.ranks.is_main:
            settings = self.files.settings
            self.logbook = Logbook(config.output, self.epoch, config.wandb, settings)
        while self.epoch < config.epochs:
            started = time.monotonic()
            figures = self.train_epoch()
            figures["epoch_s"] = time.monotonic() - started
            last_epoch = self.epoch + 1 == config.epochs
            if last_epoch or (self.epoch + 1) % config.eval_every == 0:
                self.save()  # scoring takes long and does not listen to signals
                figures |= self.validate()
            if self.logbook is not None:
                print(summary(self.epoch, config.epochs, figures), flush=True)
                self.logbook.add(self.epoch, figures | self.times.figures())
                if complaint := self.times.complaint(config.workers):
                    print(f"warning: {complaint}", flush=True)
            self.epoch, self.batch, self.loss_sum = self.epoch + 1, 0, {}
            self.save()

    def train_epoch(self) -> dict[str, float]:
        """One pass over the train split, from `self.batch` on; returns the mean loss parts."""
        self.network.train()
        for part in self.frozen:
            part.eval()  # batch norms, too
        title, total = f"epoch {self.epoch + 1}/{self.config.epochs}", self.batches_per_epoch
        progress = Progress(
            self.rest_of_epoch(), title, total, self.batch, visible=self.ranks.is_main
        )
        self.times.reset()
        for batch in progress:
            self.times.data_ready()
            losses, lr = self.step(batch.to(self.device, non_blocking=True))
            self.times.finish()
            self.batch += 1
            self.loss_sum = {k: self.loss_sum.get(k, 0.0) + v for k, v in losses.items()}
            parts = " ".join(f"{name} {mean:.2f}" for name, mean in self.loss_parts().items())
            progress.show(f"{parts} lr {lr:.2g}")
            self.checkpoint_if_due()
        return {**self.loss_parts(), "lr": self.optimizer.param_groups[0]["lr"]}

    def loss_parts(self) -> dict[str, float]:
        """Their means over the epoch so far, by name."""
        return {name: total / self.batch for name, total in self.loss_sum.items()}

    def step(self, batch: Batch) -> tuple[dict[str, float], float]:
        """Forward, backward and, every `accumulate` batches, an update -> losses, learning rate."""
        optim = self.config.optim
        index = self.epoch * self.batches_per_epoch + self.batch
        lr = set_rates(self.optimizer, optim, index, self.batches_per_epoch, self.config.epochs)
        updates = self.updates_after(self.batch)
        dtype = AMP_DTYPES[self.config.amp]
        alone = self.ranks.world == 1 or updates
        if self.task.stream:
            self.task.stream.begin(self.model, batch)
        with nullcontext() if alone else self.network.no_sync():  # type: ignore[operator]
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                x = batch.network_input().to(self.dtype)
                maps = self.network(x)
            losses = self.task.criterion([m.to(self.dtype) for m in maps], batch)
            parts = torch.stack([*losses.values()])
            images = self.ranks.sum(parts.new_tensor(x.shape[1]))
            loss = parts.sum() * images
            mean_over_ranks = loss * self.ranks.world / optim.accumulate  # DDP divides by world
            self.scaler.scale(mean_over_ranks).backward()
        self.times.mark("forward_backward")
        items = dict(zip(losses, self.ranks.sum(parts.detach()).tolist(), strict=True))
        if not all(map(math.isfinite, items.values())):
            raise ValueError(
                f"loss is {sum(items.values())} at epoch {self.epoch + 1}, batch {self.batch + 1}, "
                f"learning rate {lr:.3g}: lower optim.lr or lengthen optim.warmup_epochs"
            )
        if updates:
            self.scaler.unscale_(self.optimizer)
            if optim.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
            self.average.update(self.model)
        self.times.mark("optimizer")
        return items, lr

    def updates_after(self, batch: int) -> bool:
        """Does this batch complete an accumulation? The last of an epoch always does."""
        done = batch + 1
        return done % self.config.optim.accumulate == 0 or done == self.batches_per_epoch

    def rest_of_epoch(self) -> Iterable[Batch]:
        """This rank's share of the batches still to come, in the order the seed gives."""
        stream, seed = self.task.stream, self.config.seed
        single = shuffled(len(self.task.data), seed, self.epoch)
        order = stream.order(seed, self.epoch) if stream else single
        share = batches_of_rank(order, self.config.batch_size, self.ranks.rank, self.ranks.world)
        return self.task.data.batches(self.epoch, share[self.batch :])

    def validate(self) -> dict[str, float]:
        """Score the averaged weights on val; the best so far become best.pt."""
        self.ranks.broadcast(self.average.weights)
        averaged = build_network(self.model.config)
        load_weights(averaged, self.average.weights, self.config.output)
        figures = self.task.scorer(averaged.to(self.device), self.epoch, self.logbook)
        score = next(iter(figures.values()))
        if score > self.best:
            self.best = score
            val = {**self.task.scorer.rule, **figures}
            self.files.write_best(self.average.weights, self.epoch, val)
        return figures


def build_optimizer(
    model: DetectorNetwork, config: OptimConfig, batch_size: int
) -> torch.optim.Optimizer:
    """Three groups: convolution weights (decayed), norm weights, and `biases`.

    With a rate of its own, the backbone has three more.
    """
    decay = config.weight_decay
    if config.name == "sgd":
        decay *= batch_size * config.accumulate / NOMINAL_BATCH
    backbone = model.backbone if config.backbone_lr != 1 else ()
    groups: list[dict[str, Any]] = []
    for share in dict.fromkeys((1.0, config.backbone_lr)):
        groups += [
            {"params": [], "weight_decay": decay, "biases": False, "lr_share": share},
            {"params": [], "weight_decay": 0.0, "biases": False, "lr_share": share},
            {"params": [], "weight_decay": 0.0, "biases": True, "lr_share": share},
        ]
    for name, parameter in model.named_parameters():
        kind = 2 if name.endswith("bias") else 0 if parameter.dim() > 1 else 1
        groups[kind + 3 * (name.partition(".")[0] in backbone)]["params"].append(parameter)
    if config.name == "sgd":
        return torch.optim.SGD(groups, config.lr, config.momentum, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, config.lr, betas=(config.momentum, 0.999), fused=True)


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
        group["lr"] = (start + (target - start) * warm) * group.get("lr_share", 1.0)
        if config.name == "sgd":
            group["momentum"] = momentum
    return optimizer.param_groups[0]["lr"]


def freeze(model: DetectorNetwork, what: str) -> list[nn.Module]:
    """Let "backbone", or "detector" (all but a memory), learn nothing; its parts.

    Raises ValueError where nothing would be left to learn.
    """
    names = [*model.backbone] if what == "backbone" else []
    if what == "detector":
        names = [name for name, part in model.named_children() if name != "memory"]
    parts = [model.get_submodule(name) for name in names]
    for part in parts:
        part.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        found = f"freeze is {what!r}, which leaves nothing to learn"
        raise ValueError(f"{found}, expected a network with --model.memory spiking or gru")
    return parts


class WeightAverage:
    """Follows a model's parameters and buffers in their own precision.

    The decay of update n is decay * (1 - exp(-n / tau)), so that early weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float, tau: float) -> None:
        self.decay, self.tau = decay, tau
        self.updates = 0
        self.weights = {name: value.clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        share = 1 - self.decay * (1 - math.exp(-self.updates / self.tau))
        state = model.state_dict()
        floats = [name for name, value in state.items() if value.is_floating_point()]
        averages, current = [self.weights[n] for n in floats], [state[n] for n in floats]
        torch._foreach_lerp_(averages, current, share)
        for name in state.keys() - set(floats):
            self.weights[name].copy_(state[name])

    def load(self, weights: Mapping[str, Tensor], updates: int) -> None:
        """Continue from the `weights` that so many updates led to."""
        self.updates = updates
        for name, value in self.weights.items():
            value.copy_(weights[name])
