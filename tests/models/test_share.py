"""A shared checkpoint is small, complete and nearly the same network."""

import torch

from models import build_model
from models.checkpoint import load_model, save_checkpoint
from models.deploy import deploy
from models.share.__main__ import main

META = {"name": "spikeyolo-p", "seed": 3, "histogram": {"window_us": 250_000}}


def run_directory(tmp_path, scale=1.0):
    model = build_model("spikeyolo-p", variant="gen1", time_steps=1, activation="relu").eval()
    model.down1.conv.weight.data *= scale
    training = {"weights": model.state_dict()}
    save_checkpoint(tmp_path / "best.pt", model.config, model.state_dict(), META, training)
    return model


def test_it_is_the_same_network_up_to_rounding_in_half_the_bytes(tmp_path):
    model = run_directory(tmp_path)
    assert main([str(tmp_path), "--output", str(tmp_path / "small.pt")]) == 0
    shared, checkpoint = load_model(tmp_path / "small.pt")
    assert (checkpoint.meta, checkpoint.training) == (META, {})
    small, whole = ((tmp_path / name).stat().st_size for name in ("small.pt", "best.pt"))
    assert small < 0.55 * whole
    x = torch.randint(0, 3, (1, 1, 2, 64, 64), generator=torch.manual_seed(0)).float()
    with torch.no_grad():
        for ours, theirs in zip(model(x), shared(x), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=1e-2)
            assert not torch.equal(ours, theirs)
    assert all(p.dtype == torch.float32 for p in shared.parameters())


def test_a_deployed_network_is_shared_as_such(tmp_path):
    model = deploy(run_directory(tmp_path))
    save_checkpoint(tmp_path / "d.pt", model.config, model.state_dict(), META, kind="deployed")
    assert main([str(tmp_path / "d.pt"), "--output", str(tmp_path / "small.pt")]) == 0
    shared, checkpoint = load_model(tmp_path / "small.pt")
    assert checkpoint.kind == "deployed"
    torch.testing.assert_close(shared.down1.conv.weight, model.down1.conv.weight, atol=1e-3, rtol=0)


def test_weights_beyond_float16_and_files_that_are_none_are_refused(tmp_path, capsys):
    run_directory(tmp_path, scale=1e9)
    for source in (tmp_path, tmp_path / "absent.pt"):
        assert main([str(source), "--output", str(tmp_path / "small.pt")]) == 1
    errors = capsys.readouterr().err
    assert "down1.conv.weight: a weight beyond the range" in errors
    assert "absent.pt: no such checkpoint" in errors
    assert not (tmp_path / "small.pt").exists()


def test_the_original_is_not_overwritten(tmp_path, capsys):
    run_directory(tmp_path)
    whole = (tmp_path / "best.pt").read_bytes()
    assert main([str(tmp_path), "--output", str(tmp_path / "best.pt")]) == 1
    assert "is the checkpoint itself, expected another --output" in capsys.readouterr().err
    assert (tmp_path / "best.pt").read_bytes() == whole
