"""A network that cannot learn four pictures by heart has a fault somewhere."""

import pytest

from evaluation.detect import detect
from gen1.coco import evaluate
from gen1.protocol import PROTOCOLS
from models import build_network, resolve
from models.checkpoint import load_weights
from preprocessing.dataset import collate
from train_gen1 import trainer_of
from training.config import OptimConfig, TrainConfig


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "activation", "lr", "steps", "box_loss"),
    [
        ("spikeyolo-p", "ilif", 5e-3, 200, 0.35),
        ("spikeyolo-p", "relu", 1e-2, 150, 0.35),
        ("ems-res10", "lif", 5e-3, 120, 0.005),
    ],
    ids=["SNN", "ANN", "EMS"],
)
def test_four_samples_are_learnt_by_heart(
    small_cache, tmp_path, name, activation, lr, steps, box_loss
):
    """The loss keeps the entropy of its soft targets: dfl levels off near 0.8."""
    config = TrainConfig(
        cache=small_cache,
        output=tmp_path,
        epochs=steps,
        batch_size=12,
        device="cpu",
        model=resolve(name, variant="gen1", time_steps=2, activation=activation),
        optim=OptimConfig(
            "adamw", lr, 0.05, "cosine", 0.9, 0, warmup_epochs=10, ema_decay=0.9, ema_tau=2
        ),
    )
    trainer = trainer_of(config)
    train_set = trainer.task.data.dataset
    trainer.network.train()
    batch = collate([train_set[index] for index in range(4)])
    for trainer.epoch in range(steps):
        parts, _ = trainer.step(batch)
    assert parts["box"] < box_loss
    assert parts["cls"] < 0.35

    model = build_network(config.model)
    load_weights(model, trainer.average.weights, tmp_path)
    found = detect(model, train_set, config.detect, 12, 0, trainer.device)["r0"]
    metrics = evaluate([train_set.labels("r0")], [found], PROTOCOLS["all-boxes"])
    assert metrics.map_50 == 1.0
    assert metrics.map_50_95 > 0.9
