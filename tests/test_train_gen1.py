"""The training script: learns, logs, is interrupted and continues, refuses nonsense."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_gen1
from models import build_network, resolve
from models.checkpoint import load_checkpoint, save_checkpoint
from train_gen1 import main, trainer_of
from training import detection, running
from training import loop as training_loop
from training.config import OptimConfig, TrainConfig
from training.detection import merged
from training.loop import Trainer, decay_factor
from training.saving import Interrupted, changes

ROOT = Path(train_gen1.__file__).parent
TINY = resolve("spikeyolo-p", variant="gen1", time_steps=2)


@pytest.fixture
def config(small_cache, tmp_path):
    return TrainConfig(
        cache=small_cache,
        output=tmp_path / "run",
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
    rows = list(csv.DictReader((config.output / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert all(float(row[name]) > 0 for row in rows for name in ("box", "cls", "dfl", "lr"))
    assert "val_map_50" in rows[-1]
    assert list((config.output / "tensorboard").glob("events*"))
    saved = load_checkpoint(best)
    assert saved.meta["val"]["protocol"] == "prophesee"
    assert saved.training == {}
    settings = saved.meta["settings"]
    assert (settings["epochs"], settings["optim"]["lr"], settings["processes"]) == (2, 1e-3, 1)
    assert not settings.keys() & {"cache", "output", "device"}  # they do not shape what is learnt
    assert (config.output / "config.yaml").exists()


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_an_interrupted_run_ends_as_the_uninterrupted_one(config, tmp_path, accumulate):
    config = replace(config, optim=replace(config.optim, accumulate=accumulate))
    train_gen1.run(config)
    second = replace(config, output=tmp_path / "second")
    second.output.mkdir()
    trainer = trainer_of(second)
    step = trainer.step

    def stop_at_the_second_batch(batch):
        trainer.stop.asked = trainer.batch == 1
        return step(batch)

    trainer.step = stop_at_the_second_batch
    with pytest.raises(Interrupted):
        trainer.fit()
    trainer.files.finish()
    config_, weights, meta, training, kind = load_checkpoint(second.output / "last.pt")
    training["loss_sum"] = torch.tensor([*training["loss_sum"].values()], dtype=torch.float64)
    save_checkpoint(second.output / "last.pt", config_, weights, meta, training, kind)  # as of old
    train_gen1.run(second)
    assert_same_weights(
        weights_of(config.output / "last.pt"), weights_of(second.output / "last.pt")
    )
    figures = [
        [row[k] for k in ("epoch", "box", "cls", "dfl", "lr", "val_map_50_95")]
        for run in (config, second)
        for row in csv.DictReader((run.output / "metrics.csv").read_text().splitlines())
    ]
    assert figures[:2] == figures[2:]


@pytest.mark.slow
def test_a_terminated_process_saves_and_continues(config, tmp_path):
    yaml = tmp_path / "tiny.yaml"
    yaml.write_text(
        "model: {name: spikeyolo-p, time_steps: 2}\nepochs: 3\nbatch_size: 2\nworkers: 0\n"
        "save_every_min: 0\noptim: {name: adamw, lr: 1e-3}\npictures: 0\n"
    )
    command = [sys.executable, "train_gen1.py", "--config", str(yaml)]
    command += ["--cache", str(config.cache), "--output", str(config.output)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while not (config.output / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "continuing" in done.stdout
    assert load_checkpoint(config.output / "last.pt").training["epoch"] == 3


@pytest.mark.parametrize("kind", ["trained", "deployed"])
def test_a_file_without_the_state_of_training_is_not_continued(config, kind):
    """best.pt or a deployed file, put in the place of last.pt."""
    network = build_network(TINY)
    config.output.mkdir()
    meta = {"name": "spikeyolo-p"}
    path = config.output / "last.pt"
    save_checkpoint(path, network.config, network.state_dict(), meta, kind=kind)
    with pytest.raises(ValueError, match=rf"last\.pt: holds a {kind} network, nothing to continue"):
        train_gen1.run(config)


def test_a_non_finite_loss_stops_with_place_and_rate(config):
    trainer = trainer_of(config)
    with torch.no_grad():
        trainer.model.down1.conv.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"loss is nan at epoch 1, batch 1, learning rate"):
        trainer.fit()


def test_the_test_split_is_never_read(config, monkeypatch):
    opened = []
    open_split = detection.open_split
    monkeypatch.setattr(
        detection,
        "open_split",
        lambda cache, split, *a, **k: opened.append(split) or open_split(cache, split, *a, **k),
    )
    trainer_of(config)
    assert opened == ["train", "val"]


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(config):
    train_gen1.run(config)
    whole = weights_of(config.output / "last.pt")
    last = config.output / "last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match=r"last.pt: not a readable .* continuing from .*previous"):
        train_gen1.run(config)
    assert_same_weights(whole, weights_of(last))


@pytest.fixture
def begun(config):
    """A run of one epoch."""
    config = replace(config, epochs=1, pictures=0)
    train_gen1.run(config)
    return config


FLAG = ", or --continue-changed to go on so"


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize(
    ("asked", "found", "possible"),
    [
        ({"epochs": 2}, "epochs 1, not 2", True),
        ({"processes": 2}, "processes 1, not 2", True),
        ({"epochs": 3, "processes": 2}, "epochs 1, not 3; processes 1, not 2", True),
        ({"epochs": 0}, "epochs 1, not 0", False),
        ({"batch_size": 5}, "batch_size 4, not 5", False),
        ({"model": {"time_steps": 4}}, "model.time_steps 2, not 4", False),
    ],
)
def test_only_epochs_and_processes_may_change(asked, found, possible, allowed):
    begun = {"epochs": 1, "batch_size": 4, "processes": 1, "model": {"time_steps": 2}, "free": 1}
    compare = partial(changes, Path("last.pt"), begun, {**begun, **asked, "free": 2}, {"free"})
    if allowed and possible:
        assert compare(allowed=True)
        return
    with pytest.raises(ValueError, match="give the same settings to continue") as refused:
        compare(allowed=allowed)
    assert f"last.pt: begun with {found}: " in str(refused.value)
    assert (FLAG in str(refused.value)) == possible


@pytest.mark.slow
def test_a_finished_run_goes_on_with_more_epochs_and_says_so(begun, capsys):
    longer = replace(begun, epochs=2)
    with pytest.raises(ValueError, match=r"begun with epochs 1, not 2: .*--continue-changed"):
        train_gen1.run(longer)
    best = load_checkpoint(begun.output / "last.pt").training["best"]
    train_gen1.run(replace(longer, continue_changed=True))
    said = "extended from 1 to 2 epochs at epoch 1, batch 0"
    assert f"continuing {begun.output} at epoch 2, batch 1; {said}" in capsys.readouterr().out

    last = load_checkpoint(begun.output / "last.pt")
    assert (last.training["epoch"], last.training["average_updates"]) == (2, 6)
    assert last.training["best"] >= best
    assert last.meta["settings"]["changes"] == [said]
    first, start = json.loads((begun.output / "run.json").read_text())["starts"]
    assert (first["changes"], start["changes"]) == ([], [said])
    assert {"date", "commit"} <= start.keys()
    written = yaml.safe_load((begun.output / "config.yaml").read_text())
    assert (written["epochs"], written["continue_changed"]) == (2, False)
    rows = list(csv.DictReader((begun.output / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert float(rows[1]["lr"]) == pytest.approx(1e-3 * decay_factor(longer.optim, 1, 2))

    train_gen1.run(longer)  # begun with two epochs now
    assert load_checkpoint(begun.output / "last.pt").meta["settings"]["changes"] == [said]


@pytest.mark.slow
def test_another_number_of_processes_goes_on_at_the_same_batch(config, tmp_path):
    """The batches of all processes together are the same, and so are weights in the end."""
    config = replace(config, epochs=1, pictures=0)
    train_gen1.run(config)
    moved = replace(config, output=tmp_path / "moved", continue_changed=True)
    moved.output.mkdir()
    trainer = trainer_of(moved)
    trainer.files.settings["processes"] = 2
    step = trainer.step

    def stop_after_the_second_batch(batch):
        trainer.stop.asked = trainer.batch == 1
        return step(batch)

    trainer.step = stop_after_the_second_batch
    with pytest.raises(Interrupted):
        trainer.fit()
    trainer.files.finish()
    train_gen1.run(moved)
    last = load_checkpoint(moved.output / "last.pt")
    assert last.meta["settings"]["changes"] == ["processes 2 -> 1 at epoch 0, batch 2"]
    assert_same_weights(last.training["weights"], weights_of(config.output / "last.pt"))


@pytest.mark.slow
def test_a_run_says_how_it_came_about(config):
    config = replace(config, epochs=1)
    for _ in range(2):
        train_gen1.run(config)
    starts = json.loads((config.output / "run.json").read_text())["starts"]
    assert [start["epoch"] for start in starts] == [0, 1]
    assert starts[0]["config_sha256"] == starts[1]["config_sha256"] != starts[0]["manifest_sha256"]
    assert {"command", "commit", "environment", "processes", "device"} <= starts[0].keys()
    board = EventAccumulator(str(config.output / "tensorboard"), {"images": 0, "scalars": 0})
    tags = board.Reload().Tags()
    assert tags["images"] == ["val"]
    assert {"box", "val_map_50", "firing_rate/mean"} <= {*tags["scalars"]}


@pytest.mark.parametrize(("activation", "epochs"), [("ilif", 2), ("relu", 1)])
@pytest.mark.slow
def test_silent_layers_are_warned_of_once_even_without_pictures(config, capsys, activation, epochs):
    """Weights that never move: what is silent after the first epoch is silent after the second."""
    model = replace(TINY, activation=activation)
    still = OptimConfig("adamw", 1e-12, warmup_epochs=1, ema_decay=0.9, ema_tau=2)
    train_gen1.run(replace(config, epochs=epochs, pictures=0, model=model, optim=still))
    printed = capsys.readouterr().out
    warnings = [line for line in printed.splitlines() if "read spikes at a rate" in line]
    board = EventAccumulator(str(config.output / "tensorboard"), {"tensors": 0})
    tags = board.Reload().Tags()["tensors"]
    if activation == "relu":
        assert (warnings, tags) == ([], [])
        return
    (warning,) = warnings
    assert warning.startswith("warning: ")
    assert " of 88 layers read spikes at a rate below 0.1%: stage1.0." in warning
    assert warning.endswith(" more")
    (text,) = board.Tensors("firing_health/text_summary")
    assert text.tensor_proto.string_val[0].decode() == warning
    assert "firing_rate/mean" in board.Tags()["scalars"]


def test_shards_together_find_what_one_process_finds(config):
    trainer = trainer_of(config)
    find = partial(
        detection.detect,
        trainer.model,
        trainer.task.data.dataset,
        replace(config.detect, score_threshold=0.005),
        5,
        0,
        trainer.device,
    )
    alone = find()
    together = merged([find(shard=(rank, 2)) for rank in range(2)])
    assert sum(map(len, alone.values())) > 0
    assert alone.keys() == together.keys()
    for name, boxes in alone.items():
        assert np.array_equal(boxes, together[name])


def test_a_recording_in_two_splits_is_refused(config, monkeypatch):
    hashes = {"train": {"a": "1"}, "val": {"b": "1"}}
    monkeypatch.setattr(detection, "event_hashes", lambda *_: hashes)
    with pytest.raises(ValueError, match="val/b has the events of train/a"):
        trainer_of(config)


def test_a_gpu_without_bf16_is_named(config, monkeypatch):
    monkeypatch.setattr(training_loop, "pick_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    with pytest.raises(ValueError, match="amp is 'bf16', which Tesla T4 does not compute"):
        trainer_of(replace(config, amp="bf16"))


@pytest.mark.gpu
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_it_trains_on_a_gpu(config, amp):
    train_gen1.run(replace(config, device="cuda", amp=amp, workers=2))
    rows = list(csv.DictReader((config.output / "metrics.csv").read_text().splitlines()))
    assert all(float(row[part]) > 0 for row in rows for part in ("cls", "forward_backward_ms"))


def test_wandb_is_needed_only_if_asked_for(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="wandb is 'gen1', but the package wandb is not installed"):
        train_gen1.run(replace(config, wandb="gen1"))


def test_a_lone_damaged_checkpoint_is_named(config):
    config.output.mkdir()
    (config.output / "last.pt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"last.pt: not a readable checkpoint"):
        train_gen1.run(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--no_such_setting", "1"], "--no-such-setting"),
        (["--epochs", "many"], "epochs"),
        (["--amp", "int3"], "amp"),
        (["--model.name", "yolo-9000"], "model is 'yolo-9000', expected one of spikeyolo-p"),
        (
            ["--model.time_steps", "3"],
            "the histograms have T=2 time steps, the model was built for T=3",
        ),
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
    except SystemExit as ended:
        code = ended.code
    error = capsys.readouterr().err
    assert code not in (0, None)
    assert message in error
    assert "Traceback" not in error


def shrink(boxes):
    boxes["w"] = boxes["h"] = 12


def empty(boxes):
    boxes["t"] = 260_000  # none within half a stride of a sample


SEVEN = ["--model.num_classes", "7"]


@pytest.mark.filterwarnings("ignore:.*labels have no sample")
@pytest.mark.parametrize(
    ("changes", "made", "options", "message"),
    [
        (
            {"val": shrink},
            [],
            [],
            "split val: protocol prophesee cannot be scored, none of 4 labels counts: "
            "expected protocol all-boxes",
        ),
        (
            {},
            ["--keep", "prophesee"],
            ["--protocol", "all-boxes"],
            "protocol all-boxes cannot be scored, 1 of 4 label times that count have no sample",
        ),
        ({}, [], SEVEN, "the model was built for 7 classes, expected 2 at most: car, pedestrian"),
        ({}, [], ["--model.num_classes", "1"], "class_id is 1, expected 0 (car)\n"),
        (
            {"train": empty},
            ["--every-ms", "500"],
            [],
            "split train: none of 12 labels has a sample (samples every 500 ms), expected one at",
        ),
        (
            {"val": empty},
            ["--every-ms", "500"],
            [],
            "split val: none of 4 labels has a sample (samples every 500 ms), expected one at",
        ),
    ],
)
def test_labels_that_cannot_be_trained_or_scored_on_are_refused_at_the_start(
    relabelled, config, capsys, monkeypatch, changes, made, options, message
):
    monkeypatch.setattr(Trainer, "fit", None)
    command = ["--cache", str(relabelled(changes, *made)), "--output", str(config.output)]
    command += ["--model.name", "spikeyolo-p", "--model.time_steps", "2", "--workers", "0"]
    assert main([*command, *options]) == 1
    error = capsys.readouterr().err.splitlines(keepends=True)[-1]
    assert error.startswith("error: ")
    assert message in error


def test_an_output_that_cannot_be_is_named(config, capsys, monkeypatch):
    monkeypatch.setattr(running, "build_network", None)
    config.output.touch()
    output = config.output / "deeper"
    assert main(["--cache", str(config.cache), "--output", str(output)]) == 1
    assert f"{output}: cannot be made (Not a directory), expected" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*labels have no sample")
@pytest.mark.slow
def test_strides_learn_from_the_nearest_labels_and_are_scored(relabelled, config):
    cache = relabelled({}, "--every-ms", "250")
    train_gen1.run(replace(config, cache=cache, epochs=1, pictures=0))
    (row,) = csv.DictReader((config.output / "metrics.csv").read_text().splitlines())
    assert float(row["box"]) > 0
    assert float(row["val_map_50"]) >= 0


def test_an_unknown_key_in_the_yaml_is_named(tmp_path, capsys):
    yaml = tmp_path / "typo.yaml"
    yaml.write_text("optim: {lerning_rate: 0.1}\n")
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(yaml), "--cache", "c", "--output", "o"])
    assert ended.value.code == 2
    assert "lerning_rate" in capsys.readouterr().err
