"""The command that deploys a checkpoint: its file is the same network, and it says what it did."""

import pytest
import torch

from models import build_model
from models.checkpoint import load_model, save_checkpoint
from models.deploy import __main__ as command
from models.deploy.__main__ import main

META = {"name": "spikeyolo-p", "seed": 3, "histogram": None}


@pytest.fixture
def run_directory(tmp_path, lively):
    """A network that fires, and the run directory that holds it as best.pt."""
    torch.manual_seed(0)
    model = lively(build_model("spikeyolo-p", variant="gen1", time_steps=2)).float()
    training = {"weights": model.state_dict()}
    save_checkpoint(tmp_path / "best.pt", model.config, model.state_dict(), META, training)
    return model, tmp_path


def refusal(capsys, *arguments):
    assert main([*map(str, arguments)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    return error


@torch.no_grad()
def test_a_run_is_deployed_beside_its_best(run_directory, capsys, events):
    model, path = run_directory
    assert main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert "before: 129 convolutions, 123 batch norms, 1,748,646 parameters" in printed
    assert "after:  89 convolutions, 0 batch norms, 4,078,198 parameters" in printed
    megabytes = (path / "deployed.pt").stat().st_size / 1e6
    assert f"MB -> {megabytes:.1f} MB, {path / 'deployed.pt'}" in printed
    assert "in float64" in printed
    deployed, checkpoint = load_model(path / "deployed.pt")
    assert (checkpoint.kind, checkpoint.training) == ("deployed", {})
    assert checkpoint.meta == {**META, "deployed_from": "best.pt"}
    x = events(2, 1, 2, 64, 64)
    for ours, theirs in zip(deployed.double()(x), model.double()(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_what_is_deployed_or_absent_is_refused(run_directory, capsys):
    _, path = run_directory
    assert main([str(path / "best.pt"), "--output", str(path / "small.pt")]) == 0
    before = (path / "best.pt").read_bytes()
    assert "small.pt: is deployed already" in refusal(capsys, path / "small.pt")
    assert "absent.pt: no such checkpoint" in refusal(capsys, path / "absent.pt")
    error = refusal(capsys, path, "--output", path / "best.pt")
    assert "best.pt: is the trained checkpoint itself" in error
    assert (path / "best.pt").read_bytes() == before
    assert sorted(file.name for file in path.iterdir()) == ["best.pt", "small.pt"]


@pytest.mark.parametrize("spoil", [lambda w: w.mul_(1.001), lambda w: w.fill_(float("nan"))])
def test_outputs_that_differ_are_not_written(run_directory, capsys, monkeypatch, spoil):
    _, path = run_directory
    honest = command.deploy

    def wrong(model):
        deployed = honest(model)
        spoil(deployed.down1.conv.weight)
        return deployed

    monkeypatch.setattr(command, "deploy", wrong)
    assert "best.pt: the deployed network's outputs differ by" in refusal(capsys, path)
    assert [file.name for file in path.iterdir()] == ["best.pt"]
