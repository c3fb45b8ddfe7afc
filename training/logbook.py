"""What a run leaves behind beside its checkpoints: metrics.csv and TensorBoard events."""

import csv
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter


class Logbook:
    """One row per epoch in `metrics.csv`, the same scalars in TensorBoard.

    Rows of epochs that are trained again after a resume are replaced.
    """

    def __init__(self, directory: Path, next_epoch: int) -> None:
        self.path = directory / "metrics.csv"
        self.rows = [row for row in self._read() if int(row["epoch"]) < next_epoch]
        self.board = SummaryWriter(str(directory / "tensorboard"), purge_step=next_epoch)

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def add(self, epoch: int, figures: dict[str, float]) -> None:
        self.rows.append({"epoch": str(epoch), **{k: f"{v:.6g}" for k, v in figures.items()}})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
        temporary.replace(self.path)
        for name, value in figures.items():
            self.board.add_scalar(name, value, epoch)
        self.board.flush()
