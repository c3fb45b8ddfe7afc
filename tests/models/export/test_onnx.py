"""ONNX files: what onnxruntime makes of them equals our networks, and int8 our simulation of it."""

import numpy as np
import pytest
import torch

from models.export import nodes
from models.export.engine import OnnxNetwork
from models.export.onnx_model import onnx_model
from models.export.quantise import quantise, rounded_twin
from models.export.trace import trace
from models.neuron import neurons

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

NETWORKS = [
    ("spikeyolo-p", {}),
    ("spikeyolo-p", {"activation": "nilif"}),
    ("spikeyolo-p", {"activation": "lif-soft", "max_spikes": 2}),
    ("spikeyolo-p", {"activation": "qann"}),
    ("spikeyolo-p", {"activation": "relu"}),
    ("spikeyolo-p", {"bins_per_step": 2, "shown": 2}),
    ("ems-res10", {}),
    ("ems-resnet10-cat", {}),
    ("ems-res10", {"activation": "ilif", "max_spikes": 4, "input_scale": 0.5}),
    ("ems-res10", {"activation": "relu"}),
]


def run(model, x, watch=()):
    """What a model makes of x [T, B, C, H, W], by name; `watch`: values inside it to see, too."""
    for name in watch:
        model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    content = model.SerializeToString()
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"x": x.numpy()}), strict=True))


def assert_equal_boxes(network, x, found):
    """Boxes and scores of the graph against those of the network.

    Where layers multiply real values, float32 itself leaves more than 1e-4 px of large boxes open.
    """
    multiplies = network.config.activation == "relu" or network.config.family == "ems"
    px = 1e-3 if multiplies else 1e-4
    with torch.no_grad():
        boxes, scores = network.decode(network(x))
    np.testing.assert_allclose(found["boxes"], boxes, rtol=0, atol=px)
    np.testing.assert_allclose(found["scores"], scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "overrides"), NETWORKS)
def test_float32_equals_torch(fires, windows, name, overrides):
    network = fires(name, **overrides)
    x = torch.from_numpy(windows(3, 2, 32, 64)).transpose(0, 1).float()
    found = run(onnx_model(network, (32, 64), decode=True), x)
    assert_equal_boxes(network, x, found)


def test_the_sample_network_spikes_alike(sample, windows):
    x = torch.from_numpy(windows(2, 2, 64, 96)).transpose(0, 1).float()
    fired = {}
    handles = [
        sample.get_submodule(name).register_forward_hook(
            lambda _m, _x, y, name=name: fired.update({name: y})
        )
        for name in neurons(sample)
    ]
    with torch.no_grad():
        sample(x)
    for handle in handles:
        handle.remove()
    watch = [f"{name}@{t}" for name in fired for t in range(2)]
    found = run(onnx_model(sample, (64, 96), decode=True), x, watch)
    pairs = [(found[f"{name}@{t}"], y[t].numpy()) for name, y in fired.items() for t in (0, 1)]
    flips = sum(int((ours != theirs).sum()) for ours, theirs in pairs)
    assert flips <= 1e-5 * sum(y.numel() for y in fired.values())
    assert_equal_boxes(sample, x, found)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("name", "overrides"), [n for n in NETWORKS if "relu" not in str(n)])
def test_int8_equals_its_simulation(fires, windows, name, overrides, fused):
    network = fires(name, **overrides)
    x = torch.from_numpy(windows(2, 2, 32, 64)).transpose(0, 1).float()
    found = run(onnx_model(network, (32, 64), "int8", decode=True, fused=fused), x)
    twin = rounded_twin(network, quantise(trace(network, (32, 64))))
    assert_equal_boxes(twin, x, found)


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_stream_goes_on_where_it_was(sample, windows, precision):
    first, second = torch.from_numpy(windows(2, 2, 32, 64))[:, :, None].float()
    engine = OnnxNetwork(sample, (32, 64), precision, carry_state=True)
    network = sample
    if precision == "int8":
        network = rounded_twin(sample, quantise(trace(sample, (32, 64))))
    network.carry_state = True
    for x in (first, second):
        with torch.no_grad():
            expected = network(x)
        for ours, theirs in zip(engine(x), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="of another batch than 2: call reset"):
        engine(first.repeat(1, 2, 1, 1, 1))
    engine.reset()
    network.carry_state = False
    with torch.no_grad():
        for ours, theirs in zip(engine(second), network(second), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_weights_of_int8_are_bytes(sample):
    sizes = [
        len(onnx_model(sample, (32, 32), precision).SerializeToString())
        for precision in ("float32", "int8")
    ]
    assert sizes[1] < 0.4 * sizes[0]


def test_what_cannot_be_is_said(sample, fires, monkeypatch):
    with pytest.raises(ValueError, match="opset is 13, expected 18 to"):
        onnx_model(sample, (32, 32), opset=13)
    twin = fires("spikeyolo-p", activation="relu")
    with pytest.raises(ValueError, match="no layer of the network reads spikes"):
        onnx_model(twin, (32, 32), "int8")
    with pytest.raises(ValueError, match="which keeps no state"):
        onnx_model(twin, (32, 32), stream=True)
    with pytest.raises(ValueError, match=r"input has shape \(1, 1, 2, 32, 32\)"):
        OnnxNetwork(sample, (32, 32))(torch.zeros(1, 1, 2, 32, 32))

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(nodes, "import_module", absent)
    with pytest.raises(ValueError, match=r"onnx is not installed, expected the extra: pip install"):
        onnx_model(sample, (32, 32))
