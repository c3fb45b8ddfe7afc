"""Cache -> trained detector: the whole loop in plain sight, resumed where it was left.

Alone or under torchrun, on one node or several. Selection is by mAP on the val split; of the
test split only the names and hashes are read, to find them missing in train.
"""

import math
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ActionConfigFile, ArgumentParser
from torch import Tensor, nn

from evaluation.detect import detect, open_split
from evaluation.provenance import commit, environment
from evaluation.scoring import refuse_unready, score
from gen1.atomic import make_writable
from gen1.command import CommandLine, door
from gen1.ending import end_workers, leave
from models.checkpoint import load_checkpoint, load_weights, save_checkpoint
from models.detector import DetectorNetwork
from models.device import pick_device
from preprocessing.cache import read_manifest, writing
from preprocessing.dataset import Batch, HistogramDataset, Loader
from training.batch_norm import synchronise_batch_norm
from training.checkpoints import BackgroundWriter, on_host, read_last, write_last
from training.config import AMP_DTYPES, FREE, TrainConfig, refuse_amp
from training.ema import WeightAverage
from training.interrupt import Interrupted, StopRequest
from training.leaks import event_hashes, refuse_leaks
from training.logbook import Logbook
from training.optim import build_optimizer, set_rates
from training.parallel import ALONE, Ranks, find_ranks, replicate
from training.progress import Progress, summary
from training.randomness import random_state, restore_random_state, seed_everything
from training.run_file import add_start
from training.sampling import batches_of_rank, count_batches, shuffled
from training.settings import changes, plain
from training.timing import StepTimes
from training.validation import merged, show_validation


class Trainer:
    """Everything a run consists of, and how it is saved and continued."""

    def __init__(self, config: TrainConfig, ranks: Ranks = ALONE) -> None:
        self.config, self.ranks = config, ranks
        self.device = pick_device(config.device)
        refuse_amp(config.amp, self.device)
        seed_everything(config.seed)
        self.manifest = read_manifest(config.cache)
        self.model: DetectorNetwork = config.model.build()
        self.train_set = self.open_split(
            "train", augment=config.augment if config.augment_on else None, seed=config.seed
        )
        self.val_set = self.open_split("val")
        refuse_unready(self.train_set, self.val_set, config.protocol)
        refuse_leaks(event_hashes(config.cache, self.manifest.recordings))
        self.batches_per_epoch = count_batches(len(self.train_set), config.batch_size, ranks.world)

        memory_format = torch.channels_last if config.channels_last else torch.contiguous_format
        self.dtype = torch.float64 if config.amp == "fp64" else torch.float32
        self.model.to(self.device, self.dtype, memory_format=memory_format)
        if ranks.world > 1 and config.sync_bn:
            synchronise_batch_norm(self.model)
        self.network = replicate(self.model, ranks, config.optim.accumulate)
        self.criterion = self.model.criterion(config.gains.given(), ranks.sum)
        self.optimizer = build_optimizer(self.model, config.optim, config.batch_size)
        self.average = WeightAverage(self.model, config.optim.ema_decay, config.optim.ema_tau)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.amp == "fp16")
        seed_everything(config.seed + ranks.rank)

        self.epoch, self.batch, self.best = 0, 0, -1.0
        self.loss_sum: dict[str, float] = {}  # the parts of the loss, over the epoch so far
        self.changes: list[str] = []  # how the run went on otherwise than it began
        self.stop, self.writer = StopRequest(), BackgroundWriter()
        self.times, self.saved_at = StepTimes(self.device), time.monotonic()
        self.logbook: Logbook | None = None
        self.origin = {"commit": commit(), "environment": environment()}

    def open_split(self, split: str, **options: Any) -> HistogramDataset:
        return open_split(
            self.config.cache,
            split,
            self.model.config,
            self.manifest.settings,
            input=self.config.input,
            in_memory=self.config.in_memory,
            **options,
        )

    # ------------------------------------------------------------------ saving and continuing

    def settings(self) -> dict[str, Any]:
        """All that a continued run must have in common with its beginning."""
        return {**self.plain_config(), "processes": self.ranks.world}

    def plain_config(self) -> dict[str, Any]:
        """The configuration; T, D, activation and gains as they are where it has null."""
        model = self.config.model.resolved()
        config = replace(self.config, model=model, continue_changed=False)
        return {**plain(config), "gains": asdict(self.criterion.gains)}

    def lasting_settings(self) -> dict[str, Any]:
        """Those of the settings that shape what is learnt."""
        lasting = {name: value for name, value in self.settings().items() if name not in FREE}
        return lasting | ({"changes": self.changes} if self.changes else {})

    def save(self) -> None:
        """Copy what is needed to evaluate and to continue; a thread writes it as last.pt."""
        random_states = self.ranks.gather(random_state())
        training = {
            "config": self.settings(),
            "epoch": self.epoch,
            "batch": self.batch,
            "best": self.best,
            "loss_sum": self.loss_sum,
            "changes": self.changes,
            "weights": self.model.state_dict(),
            "average_updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_states,
        }
        directory = self.config.output
        self._write(lambda write: write_last(directory, write), training)
        self.saved_at = time.monotonic()

    def save_best(self, figures: dict[str, float]) -> None:
        path = self.config.output / "best.pt"
        self._write(lambda write: write(path), {}, val=figures)

    def _write(self, place: Any, training: dict[str, Any], **more: Any) -> None:
        if not self.ranks.is_main:
            return
        meta = {
            "name": self.config.model.name,
            "histogram": asdict(self.manifest.settings),
            "input": self.config.input,
            "epoch": self.epoch,
            "seed": self.config.seed,
            "settings": self.lasting_settings(),
            **self.origin,
            **more,
        }
        weights, training = on_host(self.average.weights), on_host(training)
        config = self.model.config

        def write(path: Path) -> None:
            with writing(path):
                save_checkpoint(path, config, weights, meta, training)

        self.writer.submit(lambda: place(write))

    def resume(self) -> bool:
        """Continue from the newest readable checkpoint, if there is one.

        Raises ValueError for one of other settings, of another cache or of other processes.
        """
        main = self.ranks.is_main
        found = read_last(self.config.output, load_checkpoint) if main else None
        path = self.ranks.gather(found and found[0])[0]
        if path is None:
            return False
        checkpoint = found[1] if found else load_checkpoint(path)
        state = checkpoint.training
        if not state:
            found = f"holds a {checkpoint.kind} network, nothing to continue its training from"
            raise ValueError(f"{path}: {found}, expected the last.pt of this run")
        model = self.config.model.with_todays_names(state["config"]["model"])
        begun = {**state["config"], "model": model}
        changed = changes(path, begun, self.settings(), FREE, self.config.continue_changed)
        if checkpoint.meta["histogram"] != asdict(self.manifest.settings):
            raise ValueError(f"{path}: trained on a cache made with other settings")
        load_weights(self.model, state["weights"], path)
        self.average.load(checkpoint.weights, state["average_updates"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.batch, self.best = state["epoch"], state["batch"], state["best"]
        self.loss_sum, self.changes = state["loss_sum"], state.get("changes", [])
        if isinstance(self.loss_sum, Tensor):  # as older runs saved it
            names = asdict(self.criterion.gains)
            self.loss_sum = dict(zip(names, self.loss_sum.tolist(), strict=True))
        if changed:
            place = f"at epoch {self.epoch}, batch {self.batch}"
            self.changes = [*self.changes, f"{changed} {place}"]
        if self.ranks.rank < len(state["random"]):  # a new process draws from its own seed
            restore_random_state(state["random"][self.ranks.rank])
        return True

    def checkpoint_if_due(self) -> None:
        """Save when time has passed; save and leave when a signal asked any rank for it.

        Raises the error of a checkpoint that could not be written.
        """
        self.writer.check()
        if not self.updates_after(self.batch - 1):
            return  # gradients in the making are not saved
        due = time.monotonic() - self.saved_at > 60 * self.config.save_every_min
        stop, due = self.ranks.any(self.stop.asked, due and self.ranks.is_main)
        if stop or due:
            self.save()
        if stop:
            raise Interrupted

    def note_start(self) -> None:
        """Write down what starts here and where, in config.yaml and run.json."""
        place = {"epoch": self.epoch, "batch": self.batch, "changes": self.changes}
        place |= {"device": str(self.device), "processes": self.ranks.world, **self.origin}
        settings = self.lasting_settings()
        add_start(self.config.output, self.plain_config(), settings, self.manifest, place)

    # ------------------------------------------------------------------------------- the loop

    def fit(self) -> None:
        """Train to the last epoch; logs, checkpoints and selects on val along the way."""
        config = self.config
        if self.ranks.is_main:
            self.logbook = Logbook(config.output, self.epoch, config.wandb, self.settings())
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
        self.train_set.set_epoch(self.epoch)
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
        with nullcontext() if alone else self.network.no_sync():
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                maps = self.network(batch.network_input().to(self.dtype))
            losses = self.criterion([m.to(self.dtype) for m in maps], batch.targets)
            parts = torch.stack([*losses.values()])
            images = self.ranks.sum(parts.new_tensor(len(maps[0])))
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

    def rest_of_epoch(self) -> Loader:
        """This rank's share of the batches still to come, in the order the seed gives."""
        order = shuffled(len(self.train_set), self.config.seed, self.epoch)
        share = batches_of_rank(order, self.config.batch_size, self.ranks.rank, self.ranks.world)
        return Loader(
            self.train_set,
            share[self.batch :],
            self.config.workers,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=4 if self.config.workers else None,
        )

    def validate(self) -> dict[str, float]:
        """Score the averaged weights on val; the best so far become best.pt."""
        config, ranks = self.config, self.ranks
        ranks.broadcast(self.average.weights)
        averaged = config.model.build()
        load_weights(averaged, self.average.weights, config.output)
        shares = ranks.gather(
            detect(
                averaged.to(self.device),
                self.val_set,
                config.detect,
                config.batch_size,
                config.workers,
                self.device,
                shard=(ranks.rank, ranks.world),
            )
        )
        detections = merged(shares)
        metrics = score(self.val_set, detections, config.protocol)
        figures = {"val_map_50_95": metrics.map_50_95, "val_map_50": metrics.map_50}
        if self.logbook is not None:
            news = show_validation(
                self.logbook, self.epoch, averaged, self.val_set, detections, config.pictures
            )
            for line in news:
                print(line, flush=True)
        if metrics.map_50_95 > self.best:
            self.best = metrics.map_50_95
            self.save_best({"protocol": config.protocol, **figures})
        return figures


def run(config: TrainConfig, ranks: Ranks = ALONE) -> Path:
    """Train, or continue, to the end; returns the best checkpoint's path."""
    if config.threads:
        torch.set_num_threads(config.threads)
    make_writable(config.output)
    trainer = Trainer(config, ranks)
    resumed = trainer.resume()
    if ranks.is_main:
        if resumed:
            found = f"continuing {config.output} at epoch {trainer.epoch + 1}"
            print("; ".join([f"{found}, batch {trainer.batch + 1}", *trainer.changes]), flush=True)
        trainer.note_start()
    trainer.stop.listen()
    ranks.finish = trainer.writer.finish
    try:
        trainer.fit()
    finally:
        trainer.writer.finish()
    return config.output / "best.pt"


def command_line() -> ArgumentParser:
    parser = CommandLine(
        prog="train_gen1.py",
        description="Train a detector on a cache of event histograms. "
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
    ranks = find_ranks()
    try:
        config = TrainConfig(**vars(parser.instantiate(arguments)))
        ranks.join(cuda=pick_device(config.device).type == "cuda")
        best = run(config, ranks)
    except (Interrupted, KeyboardInterrupt) as left:
        if ranks.is_main:
            print("interrupted: the same command continues from here", file=sys.stderr)
        if isinstance(left, Interrupted):  # all ranks agreed on it
            ranks.leave()
        return 130
    except Exception as error:
        return ranks.fail(error)
    finally:
        end_workers()
    ranks.leave()
    if ranks.is_main:
        print(f"best: {best}")
    return 0


enter = door(main)
if __name__ == "__main__":
    leave(main())
