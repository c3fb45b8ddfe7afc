"""A run begun from a twin, with a teacher, with energy to save, with parts that do not learn."""

import csv
import json

import pytest
import torch

from models.checkpoint import load_checkpoint, save_checkpoint
from train_gen1 import main


def options(cache, output, *more):
    command = ["--cache", str(cache), "--output", str(output), "--model.name", "spikeyolo-p"]
    command += ["--model.time_steps", "2", "--epochs", "1", "--batch_size", "6", "--workers", "0"]
    command += ["--device", "cpu", "--threads", "1", "--pictures", "0", *more]
    return command


@pytest.fixture(scope="module")
def twin(small_cache, tmp_path_factory):
    output = tmp_path_factory.mktemp("twin") / "run"
    assert main(options(small_cache, output, "--model.activation", "relu")) == 0
    return output


@pytest.mark.slow
def test_a_run_begins_with_its_twin_and_says_so(small_cache, twin, tmp_path, capsys):
    rates = ["--optim.lr", "1e-12", "--optim.warmup_bias_lr", "0", "--optim.weight_decay", "0"]
    command = options(small_cache, tmp_path, "--init", str(twin), *rates)
    assert main(command) == 0
    said = f"begun from {twin / 'best.pt'}: 747 tensors taken over; reshaped: down1.conv.weight"
    assert said in capsys.readouterr().out
    (start,) = json.loads((tmp_path / "run.json").read_text())["starts"]
    assert start["init"]["reshaped"] == ["down1.conv.weight"]
    theirs = load_checkpoint(twin / "best.pt").weights["sppf.conv1.conv.weight"]
    ours = load_checkpoint(tmp_path / "last.pt").training["weights"]["sppf.conv1.conv.weight"]
    assert torch.allclose(theirs, ours, atol=1e-6)
    assert main(command) == 0
    assert "begun from" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_frozen_backbone_stays_while_the_head_learns(small_cache, twin, tmp_path, capsys):
    more = ["--init", str(twin), "--freeze", "backbone", "--optim.warmup_epochs", "0"]
    assert main(options(small_cache, tmp_path, *more)) == 0
    before = load_checkpoint(twin / "best.pt").weights
    after = load_checkpoint(tmp_path / "last.pt").training["weights"]
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    rooms = {name.partition(".")[0] for name in moved if "running_" not in name}
    assert rooms - {"down1"} >= {"head", "reduce5", "out3"}
    assert not rooms & {"stage1", "down2", "stage4", "sppf"}
    assert "82 batch norms follow" in capsys.readouterr().out
    name = "stage4.0.conv1.bn_pad.bn.running_var"  # spikes of half a unit
    eps = 1e-3
    torch.testing.assert_close(after[name] + eps, (before[name] + eps) / 4)


@pytest.mark.slow
def test_a_backbone_can_learn_at_a_rate_of_its_own(small_cache, tmp_path):
    more = ["--optim.backbone_lr", "0.1", "--optim.warmup_epochs", "0", "--optim.name", "adamw"]
    assert main(options(small_cache, tmp_path, *more)) == 0
    groups = load_checkpoint(tmp_path / "last.pt").training["optimizer"]["param_groups"]
    rates = [group["lr"] for group in groups]
    assert rates == pytest.approx([0.02] * 3 + [0.002] * 3)


@pytest.mark.slow
def test_teacher_and_energy_are_parts_of_the_loss(small_cache, twin, tmp_path):
    more = ["--distill", str(twin), "--energy_weight", "1"]
    assert main(options(small_cache, tmp_path, *more)) == 0
    (row,) = csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines())
    assert float(row["distill"]) > 0
    assert 0 < float(row["energy"]) < 1
    assert float(row["val_mj"]) * float(row["val_ann_ratio"]) == pytest.approx(1.3, abs=1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--energy-weight", "-1"], "energy_weight is -1.0, expected 0 or more"),
        (["--distill-weight", "-1"], "distill_weight is -1.0, expected 0 or more"),
        (["--energy_weight", "1", "--model.activation", "relu"], "activation 'relu' has no energy"),
        (["--init", "/nowhere"], "/nowhere: no such checkpoint"),
        (["--distill", "/nowhere"], "/nowhere: no such checkpoint"),
        (["--init", "TWIN", "--model.name", "spikeyolo-n"], "down1.conv.weight is (16, 2, 7, 7),"),
        (["--distill", "TWIN", "--model.name", "ems-res10"], "of the family ems cannot imitate"),
        (["--optim.backbone-lr", "-1"], "optim.backbone_lr is -1.0, expected 0 or more"),
        (["--optim.ema-tau", "0"], "optim.ema_tau is 0.0, expected more than 0"),
        (["--optim.momentum", "2"], "optim.momentum is 2.0, expected 0 to 1"),
        (["--optim.lr", ".inf"], "optim.lr is inf, expected more than 0"),
        (["--energy-weight", ".inf"], "energy_weight is inf, expected 0 or more, finite"),
        (["--gains.box", "-1"], "gains.box is -1.0, expected 0 or more"),
        (["--threads", "-1"], "threads is -1, expected 0 or more"),
        (["--model.input-scale", "0"], "input_scale is 0.0, expected more than 0"),
        (["--model.memory", "leaky", "--model.decay", "5"], "decay is 5.0, expected a share"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    small_cache, twin, tmp_path, capsys, more, message
):
    more = [str(twin) if word == "TWIN" else word for word in more]
    output = tmp_path / "run"
    assert main(options(small_cache, output, *more)) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not list(output.glob("*"))


def with_meta(run, path, **changes):
    """A copy of a run's best checkpoint that says something else of its data."""
    found = load_checkpoint(run / "best.pt")
    save_checkpoint(path, found.config, found.weights, {**found.meta, **changes})
    return str(path)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "dataset",
            {"classes": ["pedestrian", "car"]},
            "a teacher of classes ['pedestrian'",
        ),
        ("histogram", {"window_us": 50_000}, "a teacher of window_us 50000, expected 250000"),
        ("histogram", {"downsample": 2}, "a teacher of downsample 2, expected "),
    ],
)
def test_a_teacher_sees_and_finds_what_its_pupil_does(
    small_cache, twin, tmp_path, capsys, name, changes, message
):
    said = load_checkpoint(twin / "best.pt").meta[name]
    teacher = with_meta(twin, tmp_path / "t.pt", **{name: {**said, **changes}})
    assert main(options(small_cache, tmp_path / "run", "--distill", teacher)) == 1
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*"))


@pytest.mark.parametrize("option", ["--init", "--distill"])
def test_a_run_does_not_replace_what_it_learns_from(small_cache, twin, tmp_path, capsys, option):
    own = tmp_path / "own"
    with_meta(twin, own / "best.pt")
    before = (own / "best.pt").read_bytes()
    assert main(options(small_cache, own, option, str(own))) == 1
    assert "lies in the output of this run, expected elsewhere" in capsys.readouterr().err
    assert (own / "best.pt").read_bytes() == before


@pytest.mark.slow
def test_a_run_keeps_its_teacher(small_cache, twin, tmp_path, capsys):
    teacher = with_meta(twin, tmp_path / "t.pt")
    command = options(small_cache, tmp_path / "run", "--distill", teacher)
    assert main(command) == 0
    with_meta(twin, tmp_path / "t.pt", seed=7)
    longer = [*command, "--epochs", "2", "--continue-changed"]
    assert main(longer) == 1
    assert "last.pt: taught by another teacher, expected" in capsys.readouterr().err
    with_meta(twin, tmp_path / "t.pt")
    assert main(longer) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "anew"),
    [
        ({"dataset": {"classes": ["red", "green"]}}, True),
        (
            {"histogram": None, "dataset": None},
            False,
        ),  # as the authors' of COCO: says none
    ],
)
def test_classes_begin_anew_where_their_names_are_others(
    small_cache, twin, tmp_path, capsys, changes, anew
):
    start = with_meta(twin, tmp_path / "start.pt", **changes)
    assert main(options(small_cache, tmp_path / "run", "--init", start)) == 0
    assert ("begun anew: head.cls.0.2.conv.weight" in capsys.readouterr().out) == anew
