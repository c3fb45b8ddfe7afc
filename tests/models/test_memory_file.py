"""The command that gives a trained checkpoint a memory."""

import pytest
import torch

from models import build_model
from models.checkpoint import load_checkpoint, load_model, save_checkpoint
from models.memory.__main__ import main, remember


@pytest.fixture
def trained(tmp_path):
    """trained(name, **settings) -> a checkpoint of fresh weights."""

    def save(name="spikeyolo-p", **settings):
        model = build_model(name, **{"variant": "gen1", "time_steps": 2, **settings})
        path = tmp_path / "best.pt"
        save_checkpoint(path, model.config, model.state_dict(), {"data": "streets"})
        return path

    return save


@torch.no_grad()
@pytest.mark.parametrize(("activation", "memory"), [("ilif", "spiking"), ("relu", "gru")])
def test_it_sees_a_window_as_before_and_says_where_it_comes_from(
    trained, events, activation, memory
):
    source = trained(activation=activation)
    said = remember(source, events=2.5)
    target = source.with_name("remembers.pt")
    assert said.startswith(f"{target}: ")
    model, checkpoint = load_model(target)
    plain, _ = load_model(source)
    assert (model.config.memory, model.config.memory_events) == (memory, 2.5)
    assert checkpoint.meta["data"] == "streets"
    assert checkpoint.meta["remembers_from"] == str(source)
    x = events(2, 1, 2, 64, 64).float()
    assert all(map(torch.equal, model(x), plain(x)))


@pytest.mark.parametrize(("settings", "sentence"), [
    ({"memory": "spiking"}, "holds 'spikeyolo-p' with memory 'spiking', expected a SpikeYOLO"),
    ({"name": "ems-res10", "time_steps": 5}, "holds 'ems-res10' with memory 'none', expected"),
    ({"activation": "qann"}, "best.pt: memory is 'spiking' with activation 'qann', expected"),
])  # fmt: skip
def test_what_cannot_remember_is_refused_before_anything_is_written(
    trained, capsys, settings, sentence
):
    source = trained(**settings)
    target = source.with_name("new.pt")
    assert main([str(source), "--output", str(target)]) == 1
    assert sentence in capsys.readouterr().err
    assert not target.exists()


def test_the_checkpoint_itself_is_never_replaced(trained, capsys):
    source = trained()
    before = source.read_bytes()
    assert main([str(source), "--output", str(source)]) == 1
    assert "is the checkpoint without memory, expected another --output" in capsys.readouterr().err
    assert source.read_bytes() == before
    assert load_checkpoint(source).config.memory == "none"
    assert main([str(source), "--events", "-1"]) == 1
    assert "memory_events is -1.0, expected 0 or more" in capsys.readouterr().err


def test_what_a_run_goes_on_from_is_never_replaced(trained, capsys):
    source = trained()
    last = source.with_name("last.pt")
    last.write_bytes(b"weights and optimizer")
    assert main([str(source), "--output", str(last)]) == 1
    assert "last.pt: a run goes on from it, expected another --output" in capsys.readouterr().err
    assert last.read_bytes() == b"weights and optimizer"


def test_a_directory_is_no_file_to_write(trained, tmp_path, capsys):
    source = trained()
    assert main([str(source), "--output", str(tmp_path)]) == 1
    assert "is a directory, expected the name of a file to write" in capsys.readouterr().err


def test_a_network_of_frames_has_no_events_to_hear(tmp_path, capsys):
    model = build_model("spikeyolo-p", variant="gen1", time_steps=2, in_channels=3)
    path = tmp_path / "best.pt"
    save_checkpoint(path, model.config, model.state_dict(), {"input": "authors"})
    assert main([str(path)]) == 1
    assert "reads the input 'authors', expected histogram" in capsys.readouterr().err
