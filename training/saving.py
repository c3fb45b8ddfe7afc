"""How a run goes on: its checkpoints and files, its randomness, signals that stop it."""

import json
import random
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from torch import Tensor

from evaluation.provenance import commit, content_hash, environment, flat
from gen1.atomic import atomic_write
from models.checkpoint import RUN_STATE, Checkpoint, load_checkpoint, save_checkpoint
from preprocessing.cache import writing
from training.config import FREE, SINCE, RunConfig, plain
from training.ranks import Ranks

LAST, PREVIOUS = RUN_STATE
DAMAGED = "damaged.pt"
Loaded = TypeVar("Loaded")


class RunFiles:
    """A run's directory: last.pt, previous.pt, best.pt, config.yaml and run.json.

    `about`: what checkpoints say of the data, which a continued run must have too.
    `changes`: how the run went on otherwise than it began.
    """

    def __init__(self, config: RunConfig, about: Mapping[str, Any], ranks: Ranks) -> None:
        self.config, self.about, self.ranks = config, plain(about), ranks
        self.settings = {**config.written(), "processes": ranks.world}
        self.origin = {"commit": commit(), "environment": environment()}
        self.changes: list[str] = []
        self._writer, self._saved_at = BackgroundWriter(), time.monotonic()
        self.check, self.finish = self._writer.check, self._writer.finish

    def lasting_settings(self) -> dict[str, Any]:
        """Those of the settings that shape what is learnt."""
        lasting = {name: value for name, value in self.settings.items() if name not in FREE}
        return lasting | ({"changes": self.changes} if self.changes else {})

    def is_due(self) -> bool:
        """Has it been long enough since the last.pt before?"""
        return time.monotonic() - self._saved_at > 60 * self.config.save_every_min

    def write_last(self, weights: dict[str, Tensor], epoch: int, state: dict[str, Any]) -> None:
        state = {"config": self.settings, "changes": self.changes, **state}
        self._write(partial(write_last, self.config.output), weights, epoch, state)
        self._saved_at = time.monotonic()

    def write_best(self, weights: dict[str, Tensor], epoch: int, val: dict[str, Any]) -> None:
        path = self.config.output / "best.pt"
        self._write(lambda write: write(path), weights, epoch, {}, val=val)

    def _write(
        self,
        place: Callable[[Callable[[Path], None]], None],
        weights: dict[str, Tensor],
        epoch: int,
        state: dict[str, Any],
        **more: Any,
    ) -> None:
        if not self.ranks.is_main:
            return
        meta = {
            **self.about,
            "epoch": epoch,
            "seed": self.config.seed,
            "settings": self.lasting_settings(),
            **self.origin,
            **more,
        }
        weights, state = on_host(weights), on_host(state)

        def write(path: Path) -> None:
            with writing(path):
                save_checkpoint(path, self.config.model, weights, meta, state)

        self._writer.submit(lambda: place(write))

    def read_last(self) -> Checkpoint | None:
        """The newest readable checkpoint, None if there was never one.

        Raises ValueError for one of other settings, other data or a network already deployed.
        """
        directory = self.config.output
        found = read_last(directory, load_checkpoint) if self.ranks.is_main else None
        path = self.ranks.gather(found and found[0])[0]
        if path is None:
            return None
        checkpoint = found[1] if found else load_checkpoint(path)
        if not checkpoint.training:
            what = f"holds a {checkpoint.kind} network, nothing to continue its training from"
            raise ValueError(f"{path}: {what}, expected the last.pt of this run")
        begun = {**SINCE, **checkpoint.training["config"], "model": plain(checkpoint.config)}
        asked = {**self.settings, "model": plain(self.config.model)}
        changed = changes(path, begun, asked, FREE, self.config.continue_changed)
        for name, value in self.about.items():
            if checkpoint.meta.get(name, value) != value:  # older ones say less
                data = "a cache made with other settings, or other pictures"
                said = "taught by another teacher" if "teacher" in name else f"trained on {data}"
                raise ValueError(f"{path}: {said}, expected what the run began with")
        state = checkpoint.training
        self.changes = state.get("changes", [])
        if changed:
            at = f"at epoch {state['epoch']}, batch {state['batch']}"
            self.changes = [*self.changes, f"{changed} {at}"]
        return checkpoint

    def note_start(self, place: Mapping[str, Any]) -> None:
        """Write config.yaml, and add to run.json what starts here, when, where and with what.

        What a killed run left half written is cleared away.
        """
        directory = self.config.output
        for leftover in directory.glob("*.pt.*.tmp"):
            leftover.unlink()
        path = directory / "config.yaml"
        with writing(path), atomic_write(path) as file:
            file.write(yaml.safe_dump(self.config.written(), sort_keys=False).encode())
        path = directory / "run.json"
        starts = json.loads(path.read_bytes())["starts"] if path.exists() else []
        start = {
            "command": sys.argv,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "config_sha256": content_hash(self.lasting_settings()),
            **place,
            "changes": self.changes,
            "processes": self.ranks.world,
            **self.origin,
        }
        with writing(path), atomic_write(path) as file:
            file.write(json.dumps({"starts": [*starts, start]}, indent=1).encode() + b"\n")


def on_host(state: Any) -> Any:
    """A copy of nested data whose tensors lie on the CPU and change no more."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: on_host(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(on_host(value) for value in state)
    return state


class BackgroundWriter:
    """One thread that writes files in order; two may wait, a third waits for the first.

    An error of a write is raised by the next call; `check` does nothing else.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: deque[Future[None]] = deque()

    def submit(self, write: Callable[[], None]) -> None:
        """Run `write` soon; it must not touch what training changes."""
        self.check(at_most=1)
        self._pending.append(self._thread.submit(write))

    def check(self, at_most: int = 2) -> None:
        """Raise the error of a write that failed; wait until so many are left."""
        while self._pending and (self._pending[0].done() or len(self._pending) > at_most):
            self._pending.popleft().result()

    def finish(self) -> None:
        """Wait until everything is on disk."""
        self._thread.shutdown()
        while self._pending:
            self._pending.popleft().result()


def has_begun(directory: Path) -> bool:
    """Is there a run to continue?"""
    return (directory / LAST).exists() or (directory / PREVIOUS).exists()


def write_last(directory: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make last.pt; the one before becomes previous.pt, at no moment is there none."""
    new = directory / "new.pt"
    write(new)
    if (directory / LAST).exists():
        (directory / LAST).replace(directory / PREVIOUS)
    new.replace(directory / LAST)


def read_last(directory: Path, load: Callable[[Path], Loaded]) -> tuple[Path, Loaded] | None:
    """The newest checkpoint that `load` can read, or None if there was never one.

    A last.pt for which `load` raises ValueError is set aside as damaged.pt, with a warning, and
    previous.pt is read. Raises the ValueError if that does not help.
    """
    last, previous = directory / LAST, directory / PREVIOUS
    if last.exists():
        try:
            return last, load(last)
        except ValueError as error:
            if not previous.exists():
                raise
            before = load(previous)
            last.replace(directory / DAMAGED)
            warnings.warn(f"{error}: continuing from {previous}", stacklevel=2)
            return previous, before
    return (previous, load(previous)) if previous.exists() else None


MORE = "epochs"
#: What a run may change when it goes on.
WORDS = {MORE: "extended from {} to {} epochs", "processes": "processes {} -> {}"}


def changes(
    path: Path,
    found: dict[str, Any],
    asked: dict[str, Any],
    free: Collection[str],
    allowed: bool,
) -> str:
    """How a continued run is to differ from its beginning, "" if not, `free` settings left out.

    Only more epochs and another number of processes are possible, if `allowed`. Raises ValueError
    that names any other difference.
    """
    saved = dict(flat(found))
    differing = {
        name: (saved.get(name), value)
        for name, value in flat(asked)
        if name not in free and saved.get(name) != value
    }
    possible = {n for n, (old, new) in differing.items() if n in WORDS and (n != MORE or new > old)}
    if refused := {n: pair for n, pair in differing.items() if not allowed or n not in possible}:
        begun = "; ".join(f"{name} {old!r}, not {new!r}" for name, (old, new) in refused.items())
        hint = ", or --continue-changed to go on so" if differing.keys() == possible else ""
        expected = f"give the same settings to continue, or another output{hint}"
        raise ValueError(f"{path}: begun with {begun}: {expected}")
    return ", ".join(WORDS[name].format(*pair) for name, pair in differing.items())


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, GPUs included."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Tensors and plain data from which `restore_random_state` continues."""
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    assert isinstance(numpy, dict)
    keys = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    return {
        "python": random.getstate(),
        "numpy": {**numpy, "state": {**numpy["state"], "key": keys}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Continue every generator where `random_state` left it."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    words = state["numpy"]["state"]
    key = words["key"].numpy().astype(np.uint32)
    np.random.set_state({**state["numpy"], "state": {**words, "key": key}})  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop; it has been saved."""


class StopRequest:
    """`asked` turns true at a Ctrl-C, SIGTERM or SIGUSR1; a second Ctrl-C leaves at once."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._ask)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
