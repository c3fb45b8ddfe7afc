"""Pictures are learnt by the same loop: seeded samples, a run, its continuation, its refusals."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from images.coco import read_coco
from images.eval import main as evaluate
from images.train import chosen, main, trainer_of
from images.training import ImageTrainConfig, PictureAugmentConfig, ToTrain
from models import build_model, resolve
from models.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import GOLDEN
from training import options
from training.config import OptimConfig
from training.loop import set_rates

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(pictures, tmp_path):
    folder, path = pictures
    return ImageTrainConfig(
        output=tmp_path / "run",
        images=folder,
        annotations=path,
        val_images=folder,
        val_annotations=path,
        side=64,
        epochs=2,
        batch_size=2,
        workers=0,
        eval_every=2,
        model=resolve("spikeyolo-p", variant="coco", num_classes=2),
        optim=OptimConfig("adamw", 1e-3, warmup_epochs=1, ema_decay=0.9, ema_tau=2),
    )


def samples(config, epoch, workers=0):
    dataset = ToTrain(read_coco(config.annotations, config.images), config)
    dataset.set_epoch(epoch)
    loader = torch.utils.data.DataLoader(
        dataset, num_workers=workers, collate_fn=lambda found: found[0]
    )
    return [*loader]


def same(a, b):
    return all(
        np.array_equal(x.picture, y.picture) and np.array_equal(x.boxes, y.boxes)
        for x, y in zip(a, b, strict=True)
    )


def test_samples_are_drawn_from_seed_epoch_and_index(config):
    config = replace(config, epochs=30)
    first = samples(config, 0)
    assert same(first, samples(config, 0))
    assert same(first, samples(config, 0, workers=2))
    assert not same(first, samples(config, 1))
    assert not same(first, samples(replace(config, seed=1), 0))
    for sample in [s for epoch in range(8) for s in samples(config, epoch)]:
        assert sample.picture.shape == (64, 64, 3)
        assert ((sample.boxes >= 0) & (sample.boxes <= 64)).all()
        assert (sample.boxes[:, 2:] - sample.boxes[:, :2] > 2).all()


def test_the_last_epochs_have_no_mosaic(config):
    augment = PictureAugmentConfig(scale=0, translate=0, hue=0, saturation=0, value=0, flip=0)
    config = replace(config, augment=augment, epochs=12)
    plain = samples(replace(config, augment_on=False), 0)
    for ours, theirs in zip(samples(config, 2), plain, strict=True):  # ten of twelve without
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-4)
        away = np.abs(ours.picture.astype(int) - theirs.picture)  # through hue and back
        assert away.mean() < 1
    assert [len(s.boxes) for s in samples(config, 1)] != [len(s.boxes) for s in plain]


def test_boxes_stay_on_their_objects(config):
    """What is red or green in a sample lies in a box, and the boxes are full of it."""
    config = replace(config, epochs=40, augment=PictureAugmentConfig(hue=0, saturation=0, value=0))
    for sample in [s for epoch in range(6) for s in samples(config, epoch)]:
        strong = sample.picture.max(-1).astype(int) > 150
        grey = (sample.picture == 114).all(-1)
        for x1, y1, x2, y2 in sample.boxes.round().astype(int):
            inside = strong[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]
            if inside.size > 40 and not grey[y1:y2, x1:x2].any():
                assert inside.mean() > 0.5


@pytest.mark.slow
def test_a_run_is_trained_continued_and_scored(config, tmp_path, capsys):
    trainer_of(config).run()
    rows = [*csv.DictReader((config.output / "metrics.csv").read_text().splitlines())]
    assert float(rows[-1]["val_map_50"]) >= 0
    meta = load_checkpoint(config.output / "best.pt").meta
    assert meta["images"]["categories"] == ["red", "green"]
    whole = load_checkpoint(config.output / "last.pt").training["weights"]

    cut = replace(config, output=tmp_path / "cut")
    trainer = trainer_of(cut)
    trainer.config = replace(cut, epochs=1)
    trainer.run()
    trainer_of(cut).run()
    again = load_checkpoint(cut.output / "last.pt").training["weights"]
    assert whole.keys() == again.keys()
    for name, value in whole.items():
        assert torch.equal(again[name], value), name

    words = ["--checkpoint", str(config.output), "--images", str(config.images), "--side", "64"]
    words += ["--annotations", str(config.annotations), "--output", str(tmp_path / "test")]
    assert evaluate(words) == 0
    assert json.loads((tmp_path / "test/metrics.json").read_text())["model"] == "spikeyolo-p"
    capsys.readouterr()


@pytest.mark.slow
def test_two_processes_learn_from_pictures_as_one(config, tmp_path):
    exact = ["--amp", "fp64", "--batch-size", "4", "--epochs", "2", "--device", "cpu"]
    exact += ["--threads", "1", "--workers", "0"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    found = []
    for start, output in (([], tmp_path / "alone"), (torchrun, tmp_path / "together")):
        given = replace(config, output=output)
        command = [sys.executable, *start, "-m", "images.train", *words(given, *exact)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, cwd=ROOT, check=False
        )
        assert done.returncode == 0, done.stderr
        rows = [*csv.DictReader((output / "metrics.csv").read_text().splitlines())]
        weights = load_checkpoint(output / "last.pt").training["weights"]
        found.append((weights, float(rows[-1]["val_map_50"])))
    (alone, score), (together, score_together) = found
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-6, atol=1e-6)
    assert score_together == pytest.approx(score, abs=1e-6)


@pytest.mark.slow
def test_a_teacher_and_energy_are_part_of_the_loss_of_pictures(config, tmp_path):
    teacher = build_model("spikeyolo-p", variant="coco", num_classes=2, activation="relu")
    save_checkpoint(tmp_path / "teacher.pt", teacher.config, teacher.state_dict(), {})
    taught = replace(config, distill=tmp_path / "teacher.pt", energy_weight=0.5, epochs=1)
    trainer_of(replace(taught, eval_every=1, init=tmp_path / "teacher.pt")).run()
    (row,) = csv.DictReader((config.output / "metrics.csv").read_text().splitlines())
    assert float(row["distill"]) > 0
    assert float(row["energy"]) > 0
    assert float(row["val_mj"]) > 0


def words(config, *more):
    given = {"images": config.images, "annotations": config.annotations, "side": 64}
    given |= {"val-images": config.val_images, "val-annotations": config.val_annotations}
    given |= {"output": config.output, "model.name": "spikeyolo-p", "workers": 0, "epochs": 1}
    return [word for name, value in given.items() for word in (f"--{name}", str(value))] + [*more]


@pytest.mark.slow
def test_the_command_takes_its_classes_from_the_annotations(config, capsys):
    assert main(words(config, "--batch-size", "4", "--energy-weight", "0.5")) == 0
    assert load_checkpoint(config.output / "best.pt").config.num_classes == 2
    assert "val_ann_ratio" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--side", "100"], "side is 100 px, expected a multiple of 32"),
        (["--model.num-classes", "5"], "has 2 categories, the model was built for 5 classes"),
        (["--augment.mosaic", "2"], "mosaic is 2.0, expected 0 to 1"),
        (["--augment.scale", "1"], "scale is 1.0, expected 0 or more, below 1"),
        (["--energy-weight", "-1"], "energy_weight is -1.0, expected 0 or more"),
        (["--energy-weight", ".inf"], "energy_weight is inf, expected 0 or more, finite"),
        (["--model.memory", "spiking"], "model.memory is for events alone"),
        (["--model.in-channels", "2"], "model.in_channels is 2, expected 3"),
    ],
)
def test_impossible_settings_are_one_sentence(config, capsys, options, sentence):
    assert main(words(config, *options)) == 1
    assert sentence in capsys.readouterr().err


def test_sets_of_other_categories_are_refused(config, tmp_path, capsys):
    content = json.loads(config.annotations.read_text())
    content["categories"][0]["name"] = "blue"
    (tmp_path / "other.json").write_text(json.dumps(content))
    assert main(words(config, "--val-annotations", str(tmp_path / "other.json"))) == 1
    assert "has the categories red, blue, expected those of" in capsys.readouterr().err
    content["annotations"] = []
    content["categories"][0]["name"] = "green"
    (tmp_path / "other.json").write_text(json.dumps(content))
    assert main(words(config, "--val-annotations", str(tmp_path / "other.json"))) == 1
    assert "other.json: holds no boxes, expected one at least" in capsys.readouterr().err


@pytest.mark.skipif(not (GOLDEN / "coco/log_23M.npz").is_file(), reason="no such figures")
def test_golden_the_authors_recipe_is_theirs(config):
    path = Path(__file__).parents[2] / "configs/coco_authors.yaml"
    given = words(config, "--config", str(path), "--epochs", "300", "--side", "640")
    given = [w for w in given if w not in ("--model.name", "spikeyolo-p")]
    published = chosen(given)
    parser = options.command_line("x", "x", ImageTrainConfig, published)
    settings = vars(parser.instantiate(parser.parse_args(given)))
    settings.pop("config")
    found = options.config_from(ImageTrainConfig, published, **settings)
    assert (found.model.name, found.model.time_steps, found.model.max_spikes) == (
        "spikeyolo-s",
        1,
        4,
    )
    assert found.optim.weight_decay * found.batch_size / 64 == pytest.approx(6.25e-4)
    assert found.augment == PictureAugmentConfig()
    log = np.load(GOLDEN / "coco/log_23M.npz")
    rates, theirs = torch.optim.SGD([torch.zeros(1)], 0.01), log["lr_weights"]
    rates.param_groups[0]["biases"] = False
    for epoch in range(300):  # the log has the rate at the end of an epoch, which is one late
        ours = set_rates(rates, found.optim, 100 * epoch + 99, 100, 300)
        assert abs(ours - theirs[epoch]) < (7e-5 if epoch >= 10 else 2e-4), epoch


def test_the_recipe_of_the_demo_loads(config):
    path = Path(__file__).parents[2] / "configs/demo_images.yaml"
    published = chosen(given := words(config, "--config", str(path)))
    parser = options.command_line("x", "x", ImageTrainConfig, published)
    settings = vars(parser.instantiate(parser.parse_args(given)))
    settings.pop("config")
    found = options.config_from(ImageTrainConfig, published, **settings)
    assert (found.model.max_spikes, found.augment.close_mosaic) == (4, 3)
