"""What a detector learns of boxes, whatever its data: the labels, a teacher, thrift."""

from collections.abc import Callable

import torch
from torch import Tensor

from models.checkpoint import checkpoint_file, load_model
from models.detector import DetectorNetwork
from models.thrift import EnergyMeter
from training.config import DetectorRunConfig
from training.ranks import Ranks
from training.task import Batch


class BoxCriterion:
    """The loss of the labels; beside it, if asked for, imitation of a teacher and energy.

    example: makes one input of the size to come, for the price of a spike.
    """

    def __init__(
        self,
        config: DetectorRunConfig,
        model: DetectorNetwork,
        example: Callable[[], Tensor],
        ranks: Ranks,
    ) -> None:
        self.loss = model.criterion(config.gains, ranks.sum)
        self.config, self.ranks = config, ranks
        if config.distill and not hasattr(self.loss, "imitation"):
            found = f"distill is {config.distill}, but a network of the family"
            raise ValueError(f"{found} {config.model.family} cannot imitate, expected spikeyolo")
        self.teacher = teacher_of(config) if config.distill else None
        x = example() if config.energy_weight else None
        self.meter = None if x is None else EnergyMeter(model, x)

    def __call__(self, maps: list[Tensor], batch: Batch) -> dict[str, Tensor]:
        losses = self.loss(maps, batch.targets)
        images = len(maps[0])
        share = images / self.ranks.sum(maps[0].new_tensor(images))
        if self.teacher:
            with torch.no_grad():
                theirs = self.teacher.to(maps[0])(batch.network_input().to(maps[0].dtype))
            weight = self.config.distill_weight
            losses["distill"] = weight * self.loss.imitation(maps, theirs)  # type: ignore[attr-defined]
        if self.meter:
            losses["energy"] = self.config.energy_weight * self.meter.share() * share
        return losses


def teacher_of(config: DetectorRunConfig) -> DetectorNetwork:
    """The network to imitate. Raises ValueError for one whose maps have another shape."""
    assert config.distill is not None
    path = checkpoint_file(config.distill)
    teacher, _ = load_model(path)
    for name in ("family", "num_classes", "in_channels", "time_steps"):
        found, wanted = getattr(teacher.config, name), getattr(config.model, name)
        if found != wanted:
            raise ValueError(f"{path}: a teacher of {name} {found!r}, expected {wanted!r}")
    return teacher
