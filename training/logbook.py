"""How a run goes, per epoch: metrics.csv, TensorBoard, W&B if asked."""

import csv
import importlib
import io
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from gen1.atomic import atomic_write
from preprocessing.cache import writing


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
