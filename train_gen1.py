"""Cache -> trained detector: the whole loop in plain sight, resumed where it was left.

Selection is by mAP on the val split; the test split is never read.
"""

import json
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from eval_gen1 import DetectConfig, batches, detect, open_split, pick_device, score
from gen1.atomic import atomic_write
from gen1.protocol import PROTOCOLS
from models.checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from models.config import ModelConfig
from models.loss import DetectionLoss, LossGains
from models.spikeyolo import SpikeYOLO
from preprocessing.augment import AugmentConfig
from preprocessing.cache import read_manifest
from preprocessing.dataset import INPUTS, Batch
from reporting.provenance import commit, environment
from training.ema import WeightAverage
from training.logbook import Logbook
from training.optim import OptimConfig, build_optimizer, set_rates

AMP_DTYPES = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class TrainConfig:
    """Train a detector on the train split of a cache, choose it on the val split.

    Args:
        cache: Directory that `python -m preprocessing` wrote.
        output: Run directory; the same command on it again continues the run.
        epochs: Passes over the train split.
        batch_size: Samples per forward.
        workers: Processes that read the cache; 0 reads in this one.
        input: "histogram" counts, "ternary" 127/0/255 frames in 3 channels, or "authors": ternary,
            letterboxed to 320x320, newest step first (both need a last-polarity cache).
        in_memory: Decompress both splits into memory once; for small sets.
        augment_on: Whether training samples are augmented; the authors' recipe does not.
        protocol: Rule of the val mAP: "prophesee" or "all-boxes".
        eval_every: Epochs between two evaluations on val.
        save_every_min: Minutes between two checkpoints inside an epoch.
        device: "auto", "cpu" or "cuda".
        amp: Mixed precision: "off", "bf16" or "fp16".
        channels_last: Store feature maps channels last: faster convolutions on most machines.
        threads: CPU threads of torch; 0 leaves its own choice.
        seed: Seed of weights, order and augmentation.
        model: The detector.
        optim: Optimizer, learning rate, clipping and weight averaging.
        gains: Weights of the three parts of the loss.
        augment: What augmentation may do.
        detect: Thresholds of the detections on val.
    """

    cache: Path
    output: Path
    epochs: int = 100
    batch_size: int = 80
    workers: int = 4
    input: str = "histogram"
    in_memory: bool = False
    augment_on: bool = False
    protocol: str = "prophesee"
    eval_every: int = 1
    save_every_min: float = 5.0
    device: str = "auto"
    amp: str = "off"
    channels_last: bool = True
    threads: int = 0
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    gains: LossGains = field(default_factory=LossGains)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("protocol", self.protocol, PROTOCOLS),
            ("amp", self.amp, AMP_DTYPES),
            ("input", self.input, INPUTS),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(known)}")
        for name in ("epochs", "batch_size", "eval_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")


class Interrupted(Exception):
    """A signal asked the run to stop; it has been saved."""


class Trainer:
    """Everything a run consists of, and how it is saved and continued."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.device = pick_device(config.device)
        seed_everything(config.seed)
        self.histogram = read_manifest(config.cache).settings
        self.model: SpikeYOLO = config.model.build()
        options = {"input": config.input, "in_memory": config.in_memory}
        self.train_set = open_split(
            config.cache,
            "train",
            self.model.config,
            self.histogram,
            augment=config.augment if config.augment_on else None,
            seed=config.seed,
            **options,
        )
        self.val_set = open_split(config.cache, "val", self.model.config, self.histogram, **options)
        memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.model.to(self.device, memory_format=memory_format)
        self.criterion = DetectionLoss(config.model.num_classes, config.gains)
        self.optimizer = build_optimizer(self.model, config.optim, config.batch_size)
        self.average = WeightAverage(self.model, config.optim.ema_decay, config.optim.ema_tau)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        self.batches_per_epoch = -(-len(self.train_set) // config.batch_size)
        self.epoch, self.batch, self.best = 0, 0, -1.0
        self.loss_sum = torch.zeros(3)  # box, cls, dfl of the epoch so far
        self.saved_at, self.stop = time.monotonic(), False

    # ------------------------------------------------------------------ saving and continuing

    @property
    def last(self) -> Path:
        return self.config.output / "last.pt"

    def save(self) -> None:
        """Write last.pt: averaged weights to evaluate, and all that is needed to continue."""
        training = {
            "config": plain(self.config),
            "epoch": self.epoch,
            "batch": self.batch,
            "best": self.best,
            "loss_sum": self.loss_sum,
            "weights": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        self._write(self.last, training)
        self.saved_at = time.monotonic()

    def save_best(self, figures: dict[str, float]) -> None:
        self._write(self.config.output / "best.pt", {}, val=figures)

    def _write(self, path: Path, training: dict[str, Any], **more: Any) -> None:
        meta = {
            "name": self.config.model.name,
            "histogram": asdict(self.histogram),
            "input": self.config.input,
            "epoch": self.epoch,
            "seed": self.config.seed,
            "commit": commit(),
            "environment": environment(),
            **more,
        }
        save_checkpoint(path, self.model.config, self.average.weights, meta, training)

    def resume(self) -> bool:
        """Continue from last.pt if there is one; ValueError if it is of another configuration."""
        if not self.last.exists():
            return False
        checkpoint: Checkpoint = load_checkpoint(self.last)
        state = checkpoint.training
        refuse_other_config(self.last, state["config"], plain(self.config))
        if checkpoint.meta["histogram"] != asdict(self.histogram):
            raise ValueError(f"{self.last}: trained on a cache made with other settings")
        load_weights(self.model, state["weights"], self.last)
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.batch, self.best = state["epoch"], state["batch"], state["best"]
        self.loss_sum = state["loss_sum"]
        return True

    # ------------------------------------------------------------------------------- the loop

    def fit(self) -> None:
        """Train to the last epoch; logs, checkpoints and selects on val along the way."""
        logbook = Logbook(self.config.output, self.epoch)
        while self.epoch < self.config.epochs:
            started = time.monotonic()
            figures = self.train_epoch()
            figures["epoch_s"] = time.monotonic() - started
            last_epoch = self.epoch + 1 == self.config.epochs
            if last_epoch or (self.epoch + 1) % self.config.eval_every == 0:
                figures |= self.validate()
            print(summary(self.epoch, self.config.epochs, figures), flush=True)
            logbook.add(self.epoch, figures)
            self.epoch, self.batch, self.loss_sum = self.epoch + 1, 0, torch.zeros(3)
            self.save()

    def train_epoch(self) -> dict[str, float]:
        """One pass over the train split, from `self.batch` on; returns the mean loss parts."""
        self.model.train()
        self.train_set.set_epoch(self.epoch)
        lr = 0.0
        with tqdm(
            self.rest_of_epoch(),
            f"epoch {self.epoch + 1}/{self.config.epochs}",
            self.batches_per_epoch,
            initial=self.batch,
            unit="batch",
            leave=False,
            disable=None,
        ) as progress:
            for batch in progress:
                items, lr = self.step(batch.to(self.device))
                self.batch += 1
                self.loss_sum += items.cpu()
                box, cls, dfl = (self.loss_sum / self.batch).tolist()
                progress.set_postfix_str(f"box {box:.2f} cls {cls:.2f} dfl {dfl:.2f} lr {lr:.2g}")
                self.checkpoint_if_due()
        box, cls, dfl = (self.loss_sum / self.batch).tolist()
        return {"box": box, "cls": cls, "dfl": dfl, "lr": lr}

    def step(self, batch: Batch) -> tuple[Tensor, float]:
        """Forward, backward and, every `accumulate` batches, an update."""
        optim = self.config.optim
        index = self.epoch * self.batches_per_epoch + self.batch
        lr = set_rates(self.optimizer, optim, index, self.batches_per_epoch, self.config.epochs)
        dtype = AMP_DTYPES[self.config.amp]
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            maps = self.model(batch.network_input())
        loss, items = self.criterion([m.float() for m in maps], batch.targets)
        if not torch.isfinite(loss):
            raise ValueError(
                f"loss is {loss.item()} at epoch {self.epoch + 1}, batch {self.batch + 1}, "
                f"learning rate {lr:.3g}: lower optim.lr or lengthen optim.warmup_epochs"
            )
        self.scaler.scale(loss / optim.accumulate).backward()
        if self.updates_after(self.batch):
            self.scaler.unscale_(self.optimizer)
            if optim.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
            self.average.update(self.model)
        return items, lr

    def updates_after(self, batch: int) -> bool:
        """Does this batch complete an accumulation? The last of an epoch always does."""
        done = batch + 1
        return done % self.config.optim.accumulate == 0 or done == self.batches_per_epoch

    def rest_of_epoch(self) -> DataLoader:
        """The epoch's batches that are still to come, in the order its seed gives."""
        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self.train_set), generator=generator).tolist()
        left = order[self.batch * self.config.batch_size :]
        return batches(self.train_set, self.config.batch_size, self.config.workers, sampler=left)

    def validate(self) -> dict[str, float]:
        """Score the averaged weights on val; the best so far become best.pt."""
        averaged = self.config.model.build()
        load_weights(averaged, self.average.weights, self.last)
        detections = detect(
            averaged.to(self.device),
            self.val_set,
            self.config.detect,
            self.config.batch_size,
            self.config.workers,
            self.device,
        )
        metrics = score(self.val_set, detections, self.config.protocol)
        figures = {"val_map_50_95": metrics.map_50_95, "val_map_50": metrics.map_50}
        if metrics.map_50_95 > self.best:
            self.best = metrics.map_50_95
            self.save_best({"protocol": self.config.protocol, **figures})
        return figures

    def checkpoint_if_due(self) -> None:
        """Save when time has passed; save and leave when a signal asked for it."""
        if not self.updates_after(self.batch - 1):
            return  # gradients in the making are not saved
        if self.stop:
            self.save()
            raise Interrupted
        if time.monotonic() - self.saved_at > 60 * self.config.save_every_min:
            self.save()

    def stop_on_signals(self) -> None:
        """First Ctrl-C or SIGTERM: finish the batch, save, leave. Second Ctrl-C: leave at once."""

        def ask(number: int, frame: object) -> None:
            if self.stop and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop = True

        signal.signal(signal.SIGINT, ask)
        signal.signal(signal.SIGTERM, ask)


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON would hold it."""
    return json.loads(json.dumps(asdict(config), default=str))


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


#: Settings that may change between two parts of a run: they do not alter what is learnt.
FREE = {"cache", "output", "device", "workers", "threads", "in_memory", "save_every_min"}


def refuse_other_config(path: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    """ValueError naming the settings in which a saved run differs from the one asked for."""
    saved = dict(flat(found))
    differing = [
        f"{name} {saved.get(name)!r}, not {value!r}"
        for name, value in flat(asked)
        if name not in FREE and saved.get(name) != value
    ]
    if differing:
        raise ValueError(
            f"{path}: begun with {'; '.join(differing)}: "
            f"give the same settings to continue, or another output"
        )


def summary(epoch: int, epochs: int, figures: dict[str, float]) -> str:
    parts = [f"{name} {value:.4g}" for name, value in figures.items()]
    return f"epoch {epoch + 1}/{epochs}: {', '.join(parts)}"


def run(config: TrainConfig) -> Path:
    """Train, or continue, to the end; returns the best checkpoint's path."""
    if config.threads:
        torch.set_num_threads(config.threads)
    config.output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(config)
    if trainer.resume():
        print(f"continuing {config.output} at epoch {trainer.epoch + 1}, batch {trainer.batch + 1}")
    else:
        with atomic_write(config.output / "config.yaml") as file:
            file.write(yaml.safe_dump(plain(config), sort_keys=False).encode())
    trainer.stop_on_signals()
    trainer.fit()
    return config.output / "best.pt"


def command_line() -> ArgumentParser:
    parser = ArgumentParser(
        prog="train_gen1.py",
        description="Train SpikeYOLO on a cache of event histograms. "
        "Interrupt it as you like: the same command continues.",
    )
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file with these settings")
    parser.add_class_arguments(TrainConfig)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 after an error, 130 when interrupted."""
    parser = command_line()
    arguments = parser.parse_args(argv)
    arguments.pop("config", None)
    try:
        best = run(TrainConfig(**vars(parser.instantiate(arguments))))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (Interrupted, KeyboardInterrupt):
        print("interrupted: the same command continues from here", file=sys.stderr)
        return 130
    print(f"best: {best}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
