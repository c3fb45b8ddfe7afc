"""What a run tells: a bar, times of its steps, metrics.csv, TensorBoard, W&B if asked."""

import csv
import importlib
import io
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from gen1.atomic import atomic_write
from preprocessing.cache import writing

PARTS = ("data", "forward_backward", "optimizer")
#: Above this share of the step spent waiting for data, the loader is too slow.
STARVING = 0.2


class Logbook:
    """One row per epoch in `metrics.csv`, the same scalars in TensorBoard, and W&B if asked.

    Rows of epochs that are trained again after a resume are replaced. Raises ValueError if W&B
    is asked for and not installed.
    """

    def __init__(
        self, directory: Path, next_epoch: int, wandb_project: str = "", settings: Any = None
    ) -> None:
        self.path = directory / "metrics.csv"
        self.rows = [row for row in self._read() if int(row["epoch"]) < next_epoch]
        threading.excepthook = _leave_to_this_thread
        with self._writing_board():
            self.board = SummaryWriter(str(directory / "tensorboard"), purge_step=next_epoch)
        self.firing_health: list[str] = []
        self.wandb = _start_wandb(wandb_project, directory, settings) if wandb_project else None

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _writing_board(self) -> AbstractContextManager[None]:
        return writing(self.path.parent / "tensorboard")

    def add(self, epoch: int, figures: dict[str, float]) -> None:
        self.rows.append({"epoch": str(epoch), **{k: f"{v:.6g}" for k, v in figures.items()}})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        with writing(self.path), atomic_write(self.path) as file:
            file.write(table.getvalue().encode())
        with self._writing_board():
            for name, value in figures.items():
                self.board.add_scalar(name, value, epoch)
            self.board.flush()
        if self.wandb is not None:
            self.wandb.log(figures, step=epoch)

    def add_picture(self, name: str, figure: Figure, epoch: int) -> None:
        """Show a figure in TensorBoard, without the pyplot that its own `add_figure` needs."""
        with self._writing_board():
            self.board.add_image(name, _rgb(figure), epoch, dataformats="HWC")

    def add_firing_rates(self, rates: dict[str, float], epoch: int) -> None:
        """The firing rate of every spiking layer, in TensorBoard."""
        with self._writing_board():
            for layer, rate in rates.items():
                self.board.add_scalar(f"firing_rate/{layer}", rate, epoch)

    def add_firing_health(self, found: list[str], epoch: int) -> list[str]:
        """Keep sentences about the firing of layers as text in TensorBoard, if they are news.

        Returns lines to print: none if `found` is what it was at the last call.
        """
        if found == self.firing_health:
            return []
        self.firing_health = found
        news = [f"warning: {sentence}" for sentence in found]
        news = news or ["every layer reads spikes at a sound rate again"]
        with self._writing_board():
            self.board.add_text("firing_health", "\n\n".join(news), epoch)
        return news


def _leave_to_this_thread(failed: threading.ExceptHookArgs) -> None:
    """Let TensorBoard's thread die quietly of a full disk: the next call raises its error again."""
    if not isinstance(failed.exc_value, OSError):
        threading.__excepthook__(failed)


def _rgb(figure: Figure) -> Any:
    """uint8 [H, W, 3]."""
    import matplotlib.image

    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=80)
    png.seek(0)
    return (matplotlib.image.imread(png)[..., :3] * 255).astype("uint8")


def _start_wandb(project: str, directory: Path, settings: Any) -> Any:
    """A W&B run of its own settings (WANDB_MODE=offline on clusters)."""
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        raise ValueError(
            f"wandb is {project!r}, but the package wandb is not installed: "
            "expected an empty setting, or pip install wandb"
        ) from None
    return wandb.init(project=project, dir=str(directory), config=settings, resume="allow")


class Progress:
    """Iterates over the batches of an epoch; silent unless `visible`."""

    def __init__(
        self, batches: Iterable[Any], title: str, total: int, first: int, visible: bool
    ) -> None:
        self._title, self._total, self._done = title, total, first
        self._plain = visible and not sys.stderr.isatty()
        self._bar = tqdm(
            batches,
            title,
            total,
            initial=first,
            unit="batch",
            leave=False,
            disable=self._plain or not visible,
        )
        self._said_at = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._bar)

    def show(self, figures: str, every_s: float = 60.0) -> None:
        """Say how the epoch stands after another batch."""
        self._done += 1
        self._bar.set_postfix_str(figures, refresh=False)
        if self._plain and time.monotonic() - self._said_at > every_s:
            print(f"{self._title}: batch {self._done}/{self._total}, {figures}", flush=True)
            self._said_at = time.monotonic()


def summary(epoch: int, epochs: int, figures: dict[str, float]) -> str:
    """The line that ends an epoch."""
    parts = [f"{name} {value:.4g}" for name, value in figures.items()]
    return f"epoch {epoch + 1}/{epochs}: {', '.join(parts)}"


class StepTimes:
    """Seconds of each part of a step, summed over the steps since `reset`.

    `mark(part)` ends a part that began at the mark before. On a GPU the ends are events in its
    queue, read a step later, so that the host need not wait for them.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self.reset()

    def reset(self) -> None:
        self.seconds, self.steps = dict.fromkeys(PARTS, 0.0), 0
        self._wait_from = time.perf_counter()
        self._marks: list[tuple[str, Any]] = []  # (part, its end) of this step
        self._unread: list[tuple[str, Any]] = []  # of the step before

    def data_ready(self) -> None:
        """The host has its batch: what it waited is time for data."""
        self.seconds["data"] += time.perf_counter() - self._wait_from
        self._marks = [("", self._now())]

    def mark(self, part: str) -> None:
        self._marks.append((part, self._now()))

    def finish(self) -> None:
        self._read()
        self._unread, self._marks = self._marks, []
        self.steps += 1
        self._wait_from = time.perf_counter()

    def _read(self) -> None:
        """Add up the step before."""
        if self._unread and self._on_gpu:
            self._unread[-1][1].synchronize()
        for (_, start), (part, end) in pairwise(self._unread):
            self.seconds[part] += start.elapsed_time(end) / 1e3 if self._on_gpu else end - start
        self._unread = []

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def figures(self) -> dict[str, float]:
        """Milliseconds per step of each part."""
        self._read()
        return {f"{part}_ms": 1e3 * self.seconds[part] / max(self.steps, 1) for part in PARTS}

    def complaint(self, workers: int) -> str:
        """One sentence if the device starves; empty if it does not."""
        self._read()
        share = self.seconds["data"] / max(sum(self.seconds.values()), 1e-9)
        if share < STARVING:
            return ""
        return (
            f"the loader starves the device: {share:.0%} of a step waits for data with "
            f"workers={workers}: raise workers, or set in_memory if the set is small"
        )
