"""Masks are learnt by the same loop, scored at their own size, priced, compared, refused."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import detect_gen1
import eval_gen1
import train_gen1
from images.detect import main as detect_in_pictures
from images.eval import main as evaluate_pictures
from models import build_model, build_network, resolve
from models.authors import tensor_names
from models.authors.__main__ import main as convert
from models.authors.spike2former import their_shape
from models.checkpoint import load_checkpoint, save_checkpoint
from preprocessing.geometry import Geometry
from segmentation.dataset import MaskDataset
from segmentation.eval import main as evaluate
from segmentation.predict import confusion_of
from segmentation.spec import write_mask_spec
from segmentation.train import chosen, main, trainer_of
from segmentation.training import MaskTrainConfig
from tests.places import furnish_masks
from tests.segmentation.conftest import SPEC
from training.config import OptimConfig

FPN = {"head": "fpn", "num_classes": 3, "time_steps": 2}


class Truth(torch.nn.Module):
    """A network that reads the classes off a mask, given as events: what scoring can reach."""

    def __init__(self, dataset):
        super().__init__()
        self.dataset, self.next = dataset, 0
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        masks = [self.dataset[self.next + k].mask for k in range(x.shape[1])]
        self.next += len(masks)
        return [torch.stack(masks)]

    def decode(self, maps, size):
        classes = maps[0].clamp(max=2).long()
        scores = torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float()
        return torch.nn.functional.interpolate(scores, size, mode="bilinear")


def dataset_of(streets, split="train"):
    geometry = Geometry(downsample=2)
    return MaskDataset(streets / "cache", streets / "recordings", split, geometry)


def test_classes_are_judged_at_the_size_of_the_masks(streets):
    """Half resolution costs edges alone; shares of a split add up to the whole."""
    dataset = dataset_of(streets)
    whole = confusion_of(Truth(dataset), dataset, 3, 0)
    scores = whole.scores()
    assert scores.pixel_accuracy > 0.995
    assert 0.9 < scores.miou["present"] < 1
    labelled = sum(int((dataset.mask(k) != 255).sum()) for k in range(len(dataset)))
    assert whole.matrix.sum() == labelled
    model = build_model("spike2former-tiny", variant="gen1", **FPN)
    whole = confusion_of(model, dataset, 3, 0)
    parts = [confusion_of(model, dataset, 3, 0, shard=(k, 2)) for k in (0, 1)]
    np.testing.assert_array_equal(whole.matrix, parts[0].matrix + parts[1].matrix)


def config_of(streets, output, **settings):
    return MaskTrainConfig(
        cache=streets / "cache",
        masks=streets / "recordings",
        output=output,
        workers=0,
        examples=1,
        **{
            "epochs": 2,
            "batch_size": 4,
            "eval_every": 2,
            "threads": 1,
            "model": resolve("spike2former-tiny", variant="gen1", **FPN),
            "optim": OptimConfig("adamw", 2e-3, warmup_epochs=1, ema_decay=0.9, ema_tau=2),
            **settings,
        },
    )


@pytest.mark.slow
def test_a_run_is_trained_continued_scored_and_compared(streets, tmp_path, capsys):
    config = config_of(streets, tmp_path / "whole")
    trainer_of(config).run()
    (*_, row) = csv.DictReader((config.output / "metrics.csv").read_text().splitlines())
    assert 0 <= float(row["val_miou"]) <= 1
    assert float(row["val_mj"]) > 0
    meta = load_checkpoint(config.output / "best.pt").meta
    assert meta["masks"]["classes"] == ["background", "car", "pedestrian"]
    cut = replace(config, output=tmp_path / "cut")
    trainer = trainer_of(cut)
    trainer.config = replace(cut, epochs=1)
    trainer.run()
    trainer_of(cut).run()
    whole, again = (
        load_checkpoint(run / "last.pt").training["weights"] for run in (config.output, cut.output)
    )
    for name, value in whole.items():
        assert torch.equal(again[name], value), name

    words = ["--cache", str(config.cache), "--masks", str(config.masks), "--split", "val"]
    for run in (config.output, cut.output):
        out = ["--output", str(run / "test"), "--energy-samples", "2", "--examples", "2"]
        assert evaluate(["--checkpoint", str(run), *words, *out]) == 0
    printed = capsys.readouterr().out
    assert "pedestrian  IoU" in printed
    metrics = json.loads((config.output / "test/metrics.json").read_text())
    assert metrics["protocols"]["present"]["stats"][0] == pytest.approx(
        float(row["val_miou"]), rel=1e-5
    )
    assert np.load(config.output / "test/confusion.npy").shape == (3, 3)
    page = (config.output / "test/report/report.html").read_text()
    for text in ("Intersection over union per class", "Prediction and truth", "mIoU (all)"):
        assert text in page
    assert eval_gen1.main(["--compare", str(config.output), str(cut.output)]) == 0
    table = capsys.readouterr().out
    assert "| mIoU | pixel accuracy |" in table
    assert "protocol all" in table


@pytest.mark.slow
def test_pictures_are_learnt_and_scored_by_the_same_commands(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for kind in ("images", "masks"):
            (tmp_path / "set" / kind / split).mkdir(parents=True)
        for k in range(count):
            mask = np.zeros((130, 170), np.uint8)
            mask[40:100, 20 + 10 * k : 80 + 10 * k] = 1
            pixels = (rng.integers(0, 60, (130, 170, 3)) + 150 * mask[..., None]).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"set/images/{split}/{k}.png")
            Image.fromarray(mask).save(tmp_path / f"set/masks/{split}/{k}.png")
    write_mask_spec(tmp_path / "set/masks.yaml", SPEC)
    source = ["--pictures", str(tmp_path / "set"), "--layout", "folder"]
    words = [*source, "--output", str(tmp_path / "run"), "--epochs", "1", "--batch-size", "2"]
    words += ["--workers", "0", "--model.head", "fpn", "--side", "128", "--framing.side", "128"]
    words += [
        "--framing.crop-height",
        "128",
        "--framing.crop-width",
        "160",
        "--optim.name",
        "adamw",
    ]
    assert main([*words, "--optim.lr", "1e-3", "--optim.warmup-epochs", "0.5"]) == 0
    out = ["--checkpoint", str(tmp_path / "run"), "--output", str(tmp_path / "run/test")]
    assert evaluate([*source, *out, "--side", "128", "--energy-samples", "1"]) == 0
    metrics = json.loads((tmp_path / "run/test/metrics.json").read_text())
    assert metrics["scores"]["pixels"]["car"] == 2 * 60 * 60
    assert "report:" in capsys.readouterr().out
    (tmp_path / "set.yaml").write_text(f"pictures: {tmp_path / 'set'}\nlayout: folder\n")
    network = chosen(["--config", str(tmp_path / "set.yaml")])
    assert (network.in_channels, network.num_classes) == (3, 3)


def saved(tmp_path, name, model, meta):
    save_checkpoint(tmp_path / name, model.config, model.state_dict(), meta)
    return str(tmp_path / name)


def refusal(command, words, capsys):
    assert command([*map(str, words)]) in (1, 2)
    (line,) = [s for s in capsys.readouterr().err.splitlines() if "error" in s][-1:]
    return line


def test_networks_of_the_other_task_are_refused(streets, tmp_path, capsys):
    detector = build_model("spikeyolo-p", variant="gen1", time_steps=2)
    segmenter = build_model("spike2former-tiny", variant="gen1", **FPN)
    meta = {"histogram": {"time_steps": 2, "downsample": 2}, "input": "histogram"}
    boxes = saved(tmp_path, "boxes.pt", detector, meta)
    masks = saved(tmp_path, "masks.pt", segmenter, {**meta, "masks": SPEC.as_dict()})
    cache, out = ["--cache", streets / "cache"], ["--output", tmp_path / "out"]
    with_masks = ["--masks", streets / "recordings"]

    found = refusal(evaluate, ["--checkpoint", boxes, *cache, *with_masks, *out], capsys)
    assert f"{boxes}: is a network of detection, expected one of segmentation" in found
    recording = streets / "recordings/val/r0_td.dat"
    for command, words in (
        (eval_gen1.main, ["--checkpoint", masks, *cache, *out]),
        (detect_gen1.main, [recording, "--checkpoint", masks, *out]),
        (evaluate_pictures, ["--checkpoint", masks, *(given := pictures_of(tmp_path)), *out]),
        (detect_in_pictures, [given[1], masks, tmp_path / "out"]),
    ):
        assert f"{masks}: is a network of segmentation" in refusal(command, words, capsys)
    found = refusal(train_gen1.main, ["--model.name", "spike2former-tiny", *cache, *out], capsys)
    assert "model spike2former-tiny: is a network of segmentation, expected" in found
    words = ["--model.name", "spikeyolo-p", *cache, *with_masks, *out]
    assert "model spikeyolo-p: is a network of detection" in refusal(main, words, capsys)
    assert not (tmp_path / "out").exists()


def pictures_of(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "pictures/a.png")
    image = {"id": 1, "file_name": "a.png", "height": 64, "width": 64}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20]}
    content = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return ["--images", tmp_path / "pictures", "--annotations", tmp_path / "a.json"]


def test_sources_that_cannot_be_learnt_from_are_one_sentence(streets, tmp_path, capsys):
    out, cache = ["--output", tmp_path / "out"], ["--cache", streets / "cache"]
    masks = ["--masks", streets / "recordings"]
    two = ["--model.time-steps", "2"]
    for words, sentence in (
        (out, "neither of cache and pictures were given, expected one of them"),
        ([*cache, *out], "cache was given without masks, expected both or pictures"),
        ([*cache, *masks, "--pictures", tmp_path, *out], "both of cache and pictures were given"),
        (
            [*cache, *masks, *out, *two, "--model.num-classes", "7"],
            "has 3 classes, the model was built for 7",
        ),
        ([*cache, *masks, *out, "--model.time-steps", "3"], "the model was built for T=3"),
        (["--pictures", tmp_path / "none", *out], "none: no such folder, expected pictures"),
    ):
        assert sentence in refusal(main, words, capsys)
    settings = tmp_path / "numbers.yaml"
    settings.write_text("masks: 5\npictures: 6\n")
    with pytest.raises(SystemExit):
        main(["--config", str(settings), *map(str, out)])
    assert "not of type path: expected str" in capsys.readouterr().err.lower()
    given = [*cache, *masks, "--checkpoint", streets, *out]
    for option, least in (("--examples", 0), ("--energy-samples", 0), ("--batch-size", 1)):
        found = refusal(evaluate, [*given, option, "-1"], capsys)
        assert f"is -1, expected {least} or more" in found
    shutil.copytree(streets / "recordings", tmp_path / "turned")
    other = replace(SPEC, classes=tuple(reversed(SPEC.classes)))
    write_mask_spec(tmp_path / "turned" / "val" / "masks.yaml", other)
    found = refusal(main, [*cache, "--masks", tmp_path / "turned", *out, *two], capsys)
    assert "has the classes pedestrian, car, background, expected background, car" in found
    model = build_model("spike2former-tiny", variant="gen1", **FPN)
    other = {**SPEC.as_dict(), "classes": ["sky", "car", "pedestrian"]}
    histogram = {"time_steps": 2, "downsample": 2, "keep": "masks"}
    meta = {"histogram": histogram, "input": "histogram", "masks": other}
    words = ["--checkpoint", saved(tmp_path, "x.pt", model, meta), *cache, *masks, *out]
    found = refusal(evaluate, [*words, "--split", "val"], capsys)
    assert "has the classes background, car, pedestrian, expected sky, car" in found


def test_the_recipe_builds_a_network(streets):
    config = Path(__file__).parents[2] / "configs/segmentation.yaml"
    words = ["--config", str(config), "--masks", str(streets / "recordings")]
    network = build_network(chosen(words))
    assert network.config.name == "spike2former-tiny"
    assert network.config.num_classes == 3


def test_the_network_has_as_many_classes_as_the_masks(streets):
    words = ["--masks", str(streets / "recordings"), "--cache", str(streets / "cache")]
    assert chosen(words).num_classes == 3


@pytest.mark.slow
def test_a_file_of_the_authors_is_scored_on_pictures(tmp_path, capsys):
    """Its network is ours by another name; the tensors are random, so is what it finds."""
    network = build_model("spike2former-15m", variant="coco", axes="published")
    names, ours = tensor_names(network).items(), network.state_dict()
    theirs = {name: ours[mine].view(their_shape(name, ours[mine].shape)) for mine, name in names}
    torch.save({"state_dict": theirs}, tmp_path / "theirs.pth")
    converted = tmp_path / "ours.pt"
    assert convert([str(tmp_path / "theirs.pth"), str(converted)]) == 0
    furnish_masks(tmp_path)
    words = ["--pictures", str(tmp_path / "ADE20K"), "--layout", "ade20k", "--split", "val"]
    words += ["--side", "64", "--energy-samples", "1", "--examples", "0", "--batch-size", "1"]
    words += ["--checkpoint", str(converted), "--output", str(tmp_path / "out")]
    assert evaluate(words) == 0
    metrics = json.loads((tmp_path / "out/metrics.json").read_text())
    assert metrics["input"] == "pictures, 64 px"
    assert metrics["parameters"] == 34_361_112
    assert "spike2former-15m, head mask" in capsys.readouterr().out
