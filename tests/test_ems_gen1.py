"""EMS-YOLO through the very commands of SpikeYOLO: trained, continued, scored, compared."""

import csv
import json

import pytest
import yaml

import eval_gen1
import train_gen1
from models.checkpoint import load_checkpoint
from models.ems.network import EMSConfig


@pytest.fixture(scope="module")
def trained(small_cache, tmp_path_factory):
    output = tmp_path_factory.mktemp("ems") / "run"
    command = ["--model.name", "ems-res10", "--model.time_steps", "2", "--cache", str(small_cache)]
    command += ["--output", str(output), "--epochs", "1", "--batch_size", "6", "--workers", "0"]
    command += ["--device", "cpu", "--threads", "1", "--gains.obj", "2"]
    assert train_gen1.main(command) == 0
    return command, output


def test_a_run_logs_the_parts_of_its_own_loss_and_says_what_it_was(trained):
    _, output = trained
    (row,) = csv.DictReader((output / "metrics.csv").read_text().splitlines())
    assert all(float(row[name]) > 0 for name in ("box", "obj", "cls"))
    assert "dfl" not in row
    written = yaml.safe_load((output / "config.yaml").read_text())
    assert written["gains"] == {"box": 0.05, "obj": 2.0, "cls": 0.5}
    assert (written["model"]["activation"], written["model"]["max_spikes"]) == ("lif-hard", 1)
    config = load_checkpoint(output / "best.pt").config
    assert isinstance(config, EMSConfig)
    assert (config.num_classes, config.in_channels, config.variant) == (2, 2, "gen1")


def test_the_same_command_continues_also_as_written_in_config_yaml(trained, tmp_path, capsys):
    command, output = trained
    written = yaml.safe_load((output / "config.yaml").read_text())
    written["model"] |= {"activation": "lif", "decay": None}  # as older runs wrote it
    older = tmp_path / "older.yaml"
    older.write_text(yaml.safe_dump(written))
    for again in (command, ["--config", str(output / "config.yaml")], ["--config", str(older)]):
        assert train_gen1.main(again) == 0
        assert "continuing" in capsys.readouterr().out
    assert train_gen1.main([*command, "--model.activation", "nilif"]) == 1
    assert (
        "begun with model.max_spikes 1, not 4; model.activation 'lif-hard'"
        in capsys.readouterr().err
    )


def test_a_gain_of_another_loss_is_refused(trained, tmp_path, capsys):
    command, _ = trained
    with pytest.raises(SystemExit, match="2"):
        train_gen1.main([*command, "--output", str(tmp_path), "--gains.dfl", "1"])
    assert "gains.dfl" in capsys.readouterr().err


@pytest.mark.slow
def test_it_is_scored_priced_and_compared(trained, small_cache, tmp_path, capsys):
    _, run = trained
    command = ["--checkpoint", str(run), "--cache", str(small_cache), "--device", "cpu"]
    command += ["--energy_samples", "2", "--pictures", "1", "--output", str(tmp_path / "ems")]
    assert eval_gen1.main(command) == 0
    metrics = json.loads((tmp_path / "ems" / "metrics.json").read_text())
    assert metrics["model"] == "ems-res10"
    assert metrics["parameters"] == 6_207_050 - 32 * 9  # two channels in, not three
    assert metrics["protocols"]["all-boxes"]["detections"] > 0
    assert (metrics["energy"]["time_steps"], metrics["energy"]["max_spikes"]) == (2, 1)
    assert metrics["energy"]["ac"] > 0 < metrics["energy"]["mac"]
    assert "ems-res10, T=2, D=1, lif" in capsys.readouterr().out
