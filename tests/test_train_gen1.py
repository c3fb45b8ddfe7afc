"""The training script: learns, logs, is interrupted and continues, refuses nonsense."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train_gen1
from models.checkpoint import load_checkpoint
from models.config import ModelConfig
from train_gen1 import Interrupted, TrainConfig, Trainer, main
from training.optim import OptimConfig

ROOT = Path(train_gen1.__file__).parent
TINY = ModelConfig("spikeyolo-p", time_steps=2)


@pytest.fixture
def config(small_cache, tmp_path):
    return TrainConfig(
        small_cache,
        tmp_path / "run",
        epochs=2,
        batch_size=4,
        workers=0,
        augment_on=True,
        model=TINY,
        optim=OptimConfig("adamw", 1e-3, warmup_epochs=1, ema_decay=0.9, ema_tau=2),
    )


def weights_of(path):
    return load_checkpoint(path).training["weights"]


def assert_same_weights(a, b):
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_a_run_leaves_checkpoints_and_figures(config):
    best = train_gen1.run(config)
    rows = list(csv.DictReader((config.output / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(float(row[name]) > 0 for row in rows for name in ("box", "cls", "dfl", "lr"))
    assert "val_map_50" in rows[-1]
    assert list((config.output / "tensorboard").glob("events*"))
    saved = load_checkpoint(best)
    assert saved.meta["val"]["protocol"] == "prophesee"
    assert saved.training == {}
    assert (config.output / "config.yaml").exists()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_interrupted_run_ends_as_the_uninterrupted_one(config, tmp_path, accumulate):
    config = replace(config, optim=replace(config.optim, accumulate=accumulate))
    train_gen1.run(config)
    second = replace(config, output=tmp_path / "second")
    second.output.mkdir()
    trainer = Trainer(second)
    step = trainer.step

    def stop_at_the_second_batch(batch):
        trainer.stop.asked = trainer.batch == 1
        return step(batch)

    trainer.step = stop_at_the_second_batch
    with pytest.raises(Interrupted):
        trainer.fit()
    train_gen1.run(second)
    assert_same_weights(
        weights_of(config.output / "last.pt"), weights_of(second.output / "last.pt")
    )
    figures = [
        [row[k] for k in ("epoch", "box", "cls", "dfl", "lr", "val_map_50_95")]
        for run in (config, second)
        for row in csv.DictReader((run.output / "metrics.csv").open())
    ]
    assert figures[:2] == figures[2:]


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_process_continues_from_its_last_checkpoint(config, tmp_path, kill):
    yaml = tmp_path / "tiny.yaml"
    yaml.write_text(
        "model: {name: spikeyolo-p, time_steps: 2}\nepochs: 3\nbatch_size: 2\nworkers: 0\n"
        "save_every_min: 0\noptim: {name: adamw, lr: 1e-3}\n"
    )
    command = [sys.executable, "train_gen1.py", "--config", str(yaml)]
    command += ["--cache", str(config.cache), "--output", str(config.output)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while not (config.output / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, kill)
    process.communicate(timeout=60)
    assert process.returncode == (130 if kill == signal.SIGTERM else -signal.SIGKILL)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "continuing" in done.stdout
    assert load_checkpoint(config.output / "last.pt").training["epoch"] == 3


def test_a_non_finite_loss_stops_with_place_and_rate(config):
    trainer = Trainer(config)
    with torch.no_grad():
        trainer.model.down1.conv.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"loss is nan at epoch 1, batch 1, learning rate"):
        trainer.fit()


def test_the_test_split_is_never_read(config, monkeypatch):
    opened = []
    open_split = train_gen1.open_split
    monkeypatch.setattr(
        train_gen1,
        "open_split",
        lambda cache, split, *a, **k: opened.append(split) or open_split(cache, split, *a, **k),
    )
    Trainer(config)
    assert opened == ["train", "val"]


def test_another_configuration_does_not_continue_a_run(config):
    train_gen1.run(replace(config, epochs=1))
    with pytest.raises(ValueError, match=r"last.pt: begun with epochs 1, not 2: give the same"):
        train_gen1.run(config)


def test_a_lone_damaged_checkpoint_is_named(config):
    config.output.mkdir()
    (config.output / "last.pt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"last.pt: not a readable checkpoint"):
        train_gen1.run(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--no_such_setting", "1"], "no_such_setting"),
        (["--epochs", "many"], "epochs"),
        (["--amp", "int3"], "amp is 'int3', expected one of off, bf16, fp16"),
        (["--model.name", "yolo-9000"], "model is 'yolo-9000', expected one of spikeyolo-p"),
        (["--model.time_steps", "3"], "the cache has T=2 time steps, the model was built for T=3"),
        (["--device", "cuda:7"], "device is 'cuda:7', but torch finds no usable GPU"),
        (["--cache", "/nowhere"], "/nowhere"),
    ],
)
def test_nonsense_ends_in_a_sentence(config, capsys, options, message):
    if "cuda:7" in options and torch.cuda.is_available():
        pytest.skip("a GPU is present")
    command = ["--cache", str(config.cache), "--output", str(config.output), "--workers", "0"]
    try:
        code = main([*command, "--model.name", "spikeyolo-p", "--model.time_steps", "2", *options])
    except SystemExit as exit:
        code = exit.code
    error = capsys.readouterr().err
    assert code not in (0, None)
    assert message in error
    assert "Traceback" not in error


def test_an_unknown_key_in_the_yaml_is_named(config, tmp_path, capsys):
    yaml = tmp_path / "typo.yaml"
    yaml.write_text("optim: {lerning_rate: 0.1}\n")
    with pytest.raises(SystemExit) as exit:
        main(["--config", str(yaml), "--cache", "c", "--output", "o"])
    assert exit.value.code == 2
    assert "lerning_rate" in capsys.readouterr().err
