"""The golden folder: its interpreter gives the bits of our networks, and the command its errors."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from models import build_model
from models.checkpoint import save_checkpoint
from models.deploy import deploy
from models.export.__main__ import main
from models.export.golden import write_golden
from models.export.interpreter import Network, differences
from models.export.quantise import quantise, rounded_twin
from models.export.trace import trace
from tests.models.export.conftest import SAMPLE

MARK = {"name": "spikeyolo-p"}


def test_two_windows_of_the_sample_network_to_the_bit(sample, windows, tmp_path):
    made = write_golden(sample, windows(2, 2, 64, 96), tmp_path)
    assert made["exact"] == {"float": True, "int8": True}
    assert made["integer"]["fraction_bits"] < 24
    files = sorted(path.name for path in (tmp_path / "golden").iterdir())
    assert files == [f"window{n}_{a}.npz" for n in (0, 1) for a in ("float", "int8")]
    for path in (tmp_path / "golden").iterdir():
        assert differences(tmp_path, path) == []
        with np.load(path) as figures:
            fired = [figures[name].sum() for name in figures.files if name.startswith("spikes/")]
            assert len(fired) == 88
            assert min(fired) > 0


def test_the_folder_needs_numpy_alone(sample, windows, tmp_path):
    write_golden(sample, windows(1, 2, 32, 32), tmp_path)
    script = tmp_path / "run.py"
    assert len(script.read_text().splitlines()) <= 200
    words = [sys.executable, "-I", str(script)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == "window0_float.npz: equal\nwindow0_int8.npz: equal\n", done.stderr
    graph = json.loads((tmp_path / "graph.json").read_text())
    graph["layers"][2]["settings"]["decay"] = 0.25
    (tmp_path / "graph.json").write_text(json.dumps(graph))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "window0_float.npz: differs in boxes" in done.stdout


@pytest.mark.parametrize(
    ("name", "overrides", "scales", "exact"),
    [
        ("spikeyolo-p", {"activation": "nilif"}, "float", (True, False)),
        ("spikeyolo-p", {"activation": "lif-soft", "max_spikes": 2}, "power-of-two", (True, True)),
        ("spikeyolo-p", {"activation": "qann"}, "power-of-two", (True, True)),
        ("spikeyolo-p", {"bins_per_step": 2, "shown": 2}, "power-of-two", (True, True)),
        ("ems-res10", {}, "power-of-two", (False, False)),
        ("ems-resnet10-cat", {}, "float", (False, False)),
    ],
)
def test_every_family_and_neuron(fires, windows, tmp_path, name, overrides, scales, exact):
    made = write_golden(fires(name, **overrides), windows(1, 2, 32, 32), tmp_path, scales)
    assert (made["exact"]["float"], made["exact"]["int8"]) == exact
    for path in (tmp_path / "golden").iterdir():
        assert differences(tmp_path, path) == []


def test_an_ann_twin_has_no_int8(fires, windows, tmp_path):
    model = fires("spikeyolo-p", activation="relu")
    made = write_golden(model, windows(1, 2, 32, 32), tmp_path)
    assert made["exact"] == {"float": False, "int8": False}
    assert [path.name for path in (tmp_path / "golden").iterdir()] == ["window0_float.npz"]
    assert differences(tmp_path, tmp_path / "golden" / "window0_float.npz") == []
    with pytest.raises(ValueError, match="no layer of the network reads spikes"):
        quantise(trace(model, (32, 32)))


def test_a_stream_keeps_its_state(sample, windows, tmp_path):
    x = windows(2, 2, 32, 64)
    write_golden(sample, x, tmp_path)
    network, state = Network(tmp_path), {}
    for window in x:
        maps = network.run(window[:, None], state)
    from_rest = network.run(x[1][:, None])
    assert any((a != b).any() for a, b in zip(maps, from_rest, strict=True))


def test_rounding_moves_the_maps_a_little(sample, windows):
    graph = trace(sample, (64, 96))
    x = torch.from_numpy(windows(1, 2, 64, 96)).transpose(0, 1).double()
    exact = sample.double()(x)
    for scales, most in (("float", 0.12), ("power-of-two", 0.2)):
        twin = rounded_twin(sample, quantise(graph, scales))
        errors = [
            (a - b).abs().mean() / a.abs().mean() for a, b in zip(exact, twin(x), strict=True)
        ]
        assert 0 < max(errors) < most
    sample.float()


def test_what_has_no_rule_is_named(fires):
    model = fires("spikeyolo-p")
    model.sppf.pool = nn.AvgPool2d(5, 1, 2)
    with pytest.raises(ValueError, match="the operation 'avg_pool2d' has no rule"):
        trace(model, (32, 32))

    class Attention(nn.Module):
        def forward(self, x):
            return x.softmax(-1)

    model.sppf.pool = Attention()
    with pytest.raises(ValueError, match="attention 'softmax'"):
        trace(model, (32, 32))

    class Own(type(model.sppf.conv1.neuron)):
        pass

    model.sppf.conv1.neuron = Own()
    with pytest.raises(ValueError, match=r"neuron 'sppf.conv1.neuron' is a Own"):
        trace(model, (32, 32))


def refusal(capsys, *arguments):
    assert main([*map(str, arguments)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    return error


def test_the_command(sample, windows, tmp_path, capsys):
    meta = {**MARK, "input": "histogram", "histogram": {"height": 30, "width": 60, "downsample": 1}}
    deployed = tmp_path / "deployed.pt"
    save_checkpoint(deployed, sample.config, sample.state_dict(), meta, kind="deployed")
    np.save(tmp_path / "windows.npy", windows(2, 2, 32, 64))
    words = [deployed, tmp_path / "out", "--windows", tmp_path / "windows.npy"]
    assert main([*map(str, words)]) == 0
    assert "2 windows of 32x64 px; to the bit: float, int8" in capsys.readouterr().out
    about = json.loads((tmp_path / "out" / "graph.json").read_text())["about"]
    assert about["checkpoint"] == "deployed.pt"
    np.save(tmp_path / "windows.npy", windows(2, 2, 64, 32))
    assert "holds an array (2, 2, 2, 64, 32)" in refusal(capsys, *words)
    (tmp_path / "windows.npy").write_text("no array")
    assert "windows.npy: cannot be read" in refusal(capsys, *words)


def test_a_trained_checkpoint_is_refused(tmp_path, capsys):
    error = refusal(capsys, SAMPLE, tmp_path / "out")
    assert "is a trained checkpoint, expected a deployed one: python -m models.deploy" in error


def test_a_size_that_nothing_says(sample, tmp_path, capsys):
    deployed = tmp_path / "deployed.pt"
    save_checkpoint(deployed, sample.config, sample.state_dict(), MARK, kind="deployed")
    assert "expected height and width" in refusal(capsys, deployed, tmp_path / "out")


def test_the_command_writes_onnx(sample, windows, tmp_path, capsys):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    deployed, file = tmp_path / "deployed.pt", tmp_path / "out" / "network.onnx"
    save_checkpoint(deployed, sample.config, sample.state_dict(), MARK, kind="deployed")
    words = [deployed, file, "--format", "onnx", "--height", 32, "--width", 64]
    assert main([*map(str, words), "--precision", "int8", "--decode"]) == 0
    assert f"{file}: 4." in capsys.readouterr().out
    onnx.checker.check_model(file)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    x = windows(1, 2, 32, 64)[0][:, None].astype(np.float32)
    assert session.run(["boxes"], {"x": x})[0].shape == (1, 42, 4)
    assert "opset is 9, expected 18" in refusal(capsys, *words, "--opset", 9)
    words[3] = "nir"
    assert "spikes are counts up to 4" in refusal(capsys, *words)


@pytest.mark.parametrize("options", [[], ["--format", "onnx", "--precision", "int8"]])
def test_attention_is_refused_by_name(tmp_path, capsys, options):
    network = build_model("spike2former-tiny", variant="gen1", num_classes=3, time_steps=1)
    deployed, path = deploy(network.eval()), tmp_path / "masks.pt"
    save_checkpoint(path, network.config, deployed.state_dict(), {}, kind="deployed")
    size = ["--height", "64", "--width", "64"]
    error = refusal(capsys, path, tmp_path / "out", *size, *options)
    assert "'spikeformer.stage4.0.attention.meet' multiplies outputs of neurons" in error
    assert not (tmp_path / "out").exists()


def test_a_network_of_pictures_knows_its_size(tmp_path, capsys):
    network = build_model("spikeyolo-p", variant="coco", num_classes=1)
    deployed, path = deploy(network.eval()), tmp_path / "pictures.pt"
    meta = {"images": {"side": 64}}
    save_checkpoint(path, network.config, deployed.state_dict(), meta, kind="deployed")
    assert main([str(path), str(tmp_path / "x.onnx"), "--format", "onnx"]) == 0
    assert "input of 64x64 px" in capsys.readouterr().out
