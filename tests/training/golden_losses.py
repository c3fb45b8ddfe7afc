"""The losses of the first 20 steps of every family of configuration, in double precision.

python tests/training/golden_losses.py CACHE writes tests/golden/losses.json, for a cache such as
the fixture `small_cache`; tests/training/test_golden_losses.py compares with it.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from train_gen1 import config_of, trainer_of  # noqa: E402
from training.config import TrainConfig  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "losses.json"
#: Family -> configuration file, size and activation; small sizes and T = 2, so that a CPU can.
FAMILIES = {
    "authors": ("gen1_authors.yaml", "spikeyolo-p", "ilif"),
    "sgd": ("gen1_sgd.yaml", "spikeyolo-p", "ilif"),
    "adamw": ("gen1_adamw.yaml", "spikeyolo-p", "ilif"),
    "adamw, ANN twin": ("gen1_adamw.yaml", "spikeyolo-p", "relu"),
    "EMS-YOLO": ("gen1_ems.yaml", "ems-res10", "lif-hard"),
}
STEPS = 20


def family(name: str, cache: Path) -> TrainConfig:
    """The configuration of a family, small enough for a CPU."""
    file, size, activation = FAMILIES[name]
    small = {"name": size, "time_steps": 2, "activation": activation}
    options = [part for name, value in small.items() for part in (f"--model.{name}", str(value))]
    files = ["--config", str(ROOT / "configs" / file), "--cache", str(cache)]
    config = config_of([*files, "--output", "unused", *options])
    return replace(
        config,
        optim=replace(config.optim, warmup_epochs=1),
        batch_size=2,
        workers=0,
        device="cpu",
        amp="fp64",
    )


def curve(config: TrainConfig) -> list[list[float]]:
    """The parts of the loss, as the model names them, in the first STEPS steps."""
    trainer = trainer_of(config)
    losses: list[list[float]] = []
    while len(losses) < STEPS:
        trainer.network.train()
        for batch in trainer.rest_of_epoch():
            losses.append([*trainer.step(batch)[0].values()])
            trainer.batch += 1
        trainer.epoch, trainer.batch = trainer.epoch + 1, 0
    return losses[:STEPS]


if __name__ == "__main__":
    curves = {name: curve(family(name, Path(sys.argv[1]))) for name in FAMILIES}
    GOLDEN.write_text(json.dumps(curves, indent=1) + "\n")
