"""The authors' names, both ways, and their published files of pickled objects."""

import os
import pickle
import sys
import zipfile
from types import ModuleType

import pytest
import torch
from torch import nn

from models import build_model
from models.authors import convert_state_dict, infer_config, tensor_names
from models.authors.__main__ import main
from models.authors.files import read_authors_file, unwrapped
from models.checkpoint import load_model
from models.spikeyolo import SpikeYOLO

KEY_FILES = {
    "coco_n_nc80": ("spikeyolo-n", {}),
    "coco_s_nc80": ("spikeyolo-s", {}),
    "coco_m_nc80_layer25as27": ("spikeyolo-m", {}),
    "coco_l_nc80_layer25as27": ("spikeyolo-l", {}),
    "gen1_s_nc2": ("spikeyolo-s", {"variant": "gen1", "in_channels": 3}),
}
FROZEN_DFL = "model.26.dfl.conv.weight"


@pytest.fixture(scope="module")
def small_state():
    """The authors' state_dict of a Gen1 network of our size p."""
    torch.manual_seed(0)
    return authors_names(build_model("spikeyolo-p", variant="gen1", in_channels=3))


def authors_names(model: SpikeYOLO) -> dict[str, torch.Tensor]:
    ours = model.state_dict()
    state = {theirs: ours[name].clone() for name, theirs in tensor_names(model).items()}
    return {**state, FROZEN_DFL: torch.arange(16.0).view(1, 16, 1, 1)}


@pytest.mark.parametrize("case", KEY_FILES)
def test_every_published_name_and_shape_converts(golden_json, case):
    name, overrides = KEY_FILES[case]
    keys = golden_json(f"keys_{case}")["keys"]
    state = {key: torch.empty(shape, device="meta") for key, shape, _ in keys}
    state[FROZEN_DFL] = torch.arange(16.0).view(1, 16, 1, 1)
    with torch.device("meta"):
        model = build_model(name, **overrides)
    assert infer_config(state) == model.config
    model.load_state_dict(convert_state_dict(state), strict=True)
    assert set(tensor_names(model).values()) == {key for key, _, _ in keys} - {FROZEN_DFL}


def test_variant_of_a_size_with_the_same_layers(small_state):
    assert infer_config(small_state).variant == "gen1"
    assert infer_config(small_state, "coco").variant == "coco"
    assert infer_config(small_state, "coco").decay == 0.25
    coco = authors_names(build_model("spikeyolo-p", num_classes=80))
    assert infer_config(coco).variant == "coco"


def test_variant_of_m_is_read_off_layer_8():
    with torch.device("meta"):
        models = [build_model("spikeyolo-m", variant=v, num_classes=5) for v in ("coco", "gen1")]
    found = []
    for model in models:
        ours = model.state_dict()
        state = {theirs: ours[name] for name, theirs in tensor_names(model).items()}
        found.append(infer_config(state).variant)
    assert found == ["coco", "gen1"]


@pytest.mark.parametrize("name", ["model.1.encode_conv.weight", "model.25.bn2.bias", FROZEN_DFL])
def test_a_missing_tensor_is_named(small_state, name):
    state = {key: tensor for key, tensor in small_state.items() if key != name}
    with pytest.raises(ValueError, match=f"missing tensor '{name}'"):
        convert_state_dict(state)


def test_an_extra_tensor_is_named(small_state):
    extra = {**small_state, "model.27.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"extra tensor 'model\.27\.weight'"):
        convert_state_dict(extra)


@pytest.mark.parametrize(
    "name",
    ["model.26.cv3.0.2.conv.weight", "model.6.0.conv1.body.2.1.weight", FROZEN_DFL],
)
def test_a_misshapen_tensor_is_named(small_state, name):
    with pytest.raises(ValueError, match=f"tensor '{name}' has shape"):
        convert_state_dict({**small_state, name: small_state[name].flatten()})


def test_other_distance_bins_are_refused(small_state):
    bins = torch.arange(16.0).view(1, 16, 1, 1) + 1
    with pytest.raises(ValueError, match=r"holds other values than 0\.\.15"):
        convert_state_dict({**small_state, FROZEN_DFL: bins})


def test_an_unpublished_width_is_refused(small_state):
    state = {**small_state, "model.1.encode_conv.weight": torch.zeros(17, 3, 7, 7)}
    with pytest.raises(ValueError, match="has 17 channels"):
        convert_state_dict(state)


# --- their published files -------------------------------------------------------------------


def authors_network(state: dict[str, torch.Tensor]) -> tuple[nn.Module, list[str]]:
    """A pickled-object twin of theirs: classes of packages that are gone when it is read."""
    names = ["ultralytics", "ultralytics.nn", "ultralytics.nn.tasks", "ultralytics.nn.layers"]
    modules = {name: ModuleType(name) for name in names}
    tasks, layers = modules["ultralytics.nn.tasks"], modules["ultralytics.nn.layers"]
    for owner, name in ((tasks, "DetectionModel"), (layers, "Layer"), (layers, "Settings")):
        base = object if name == "Settings" else nn.Module
        setattr(owner, name, type(name, (base,), {"__module__": owner.__name__}))
    sys.modules.update(modules)

    network = tasks.DetectionModel()
    for path, tensor in state.items():
        *owners, leaf = path.split(".")
        place = network
        for owner in owners:
            if owner not in place._modules:
                place.add_module(owner, layers.Layer())
            place = place._modules[owner]
        if leaf.startswith(("running_", "num_batches")):
            place.register_buffer(leaf, tensor)
        else:
            place.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
    network.register_buffer("scratch", torch.zeros(3), persistent=False)
    network.yaml = {"nc": 2, "scales": {"s": [0.33, 0.5]}}
    network.args = layers.Settings()
    network.args.imgsz, network.args.seen = 320, {1, 2}
    return network, names


@pytest.fixture
def published(tmp_path, small_state):
    """published(**content) -> path of a file as the authors publish it, half precision."""

    def write(key: str = "ema", **content: object):
        network, names = authors_network(small_state)
        path = tmp_path / "theirs.pt"
        whole = {"epoch": -1, "date": "2024-07-01", "train_args": {"lr0": 0.02}, "model": None}
        torch.save({**whole, key: network.half(), **content}, path)
        for name in names:
            del sys.modules[name]
        return path

    return write


@pytest.mark.parametrize("key", ["ema", "model"])
def test_published_file_becomes_our_checkpoint(published, small_state, tmp_path, capsys, key):
    path, out = published(key), tmp_path / "ours.pt"
    assert main([str(path), str(out), "--time-steps", "2", "--max-spikes", "3"]) == 0
    said = capsys.readouterr().out
    assert f"DetectionModel under '{key}'" in said
    assert "spikeyolo-p, variant gen1, 2 classes, 3 input channels" in said

    model, checkpoint = load_model(out)
    assert (model.config.time_steps, model.config.max_spikes, model.config.decay) == (2, 3, 0.5)
    assert checkpoint.meta["name"] == "spikeyolo-p"
    assert checkpoint.meta["histogram"]["representation"] == "last-polarity"
    assert checkpoint.meta["histogram"]["time_steps"] == 2
    expected = convert_state_dict(small_state)
    for name, tensor in model.state_dict().items():
        half = expected[name].half() if expected[name].is_floating_point() else expected[name]
        assert torch.equal(tensor, half.to(tensor.dtype)), name
    assert model.down1.conv.weight.dtype == torch.float32
    assert not any(name.startswith("ultralytics") for name in sys.modules)


def test_ema_is_preferred(published, small_state):
    other = {name: torch.zeros_like(tensor) for name, tensor in small_state.items()}
    found = read_authors_file(published("ema", model=other))
    assert found.held_by == "DetectionModel under 'ema'"
    assert found.state["model.1.encode_conv.weight"].any()
    assert "scratch" not in found.state


def test_plain_state_dict_file(small_state, tmp_path):
    path = tmp_path / "state.pt"
    torch.save(small_state, path)
    found = read_authors_file(path)
    assert found.held_by == "plain state_dict"
    assert set(found.state) == set(small_state)
    for name, tensor in small_state.items():
        assert torch.equal(found.state[name], tensor), name


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", ""])
@pytest.mark.parametrize("holders", [(), ("state_dict",), ("ema",), ("model", "state_dict")])
@pytest.mark.parametrize("family", ["SpikeYOLO", "EMS-YOLO"])
def test_wrapped_state_dicts(small_state, tmp_path, family, prefix, holders):
    """As DDP, torch.compile and training code save them."""
    state = small_state
    if family == "EMS-YOLO":
        state = {name: torch.zeros(2) for name in ("model.0.conv.weight", "model.12.anchors")}
    content = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    for holder in reversed(holders):
        content = {holder: content, "epoch": 3}
    torch.save(content, tmp_path / "state.pt")
    found = read_authors_file(tmp_path / "state.pt")
    assert [*found.state] == [*state]


def test_names_of_two_prefixes_stay_as_they_are():
    names = ["module.model.1.a", "model.2.b", "scale"]
    assert [*unwrapped(dict.fromkeys(names, torch.zeros(1)))] == names


def test_one_common_prefix_leaves_other_tensors_to_the_strict_check():
    names = ["n_averaged", "module.model.1.a"]
    assert [*unwrapped(dict.fromkeys(names, torch.zeros(1)))] == ["n_averaged", "model.1.a"]


class Explosive:
    """Pickles into a call that leaves a directory behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_the_file_is_executed(published, tmp_path):
    fuse = tmp_path / "executed"
    path = published("ema", date=Explosive(fuse), epoch=Explosive(fuse))
    assert read_authors_file(path).held_by == "DetectionModel under 'ema'"
    assert not fuse.exists()

    torch.save({"date": Explosive(fuse), "model": {"x": torch.zeros(1)}}, path)
    read_authors_file(path)
    assert not fuse.exists()
    torch.load(path, weights_only=False)  # the charge is real
    assert fuse.exists()


def replaced(path, name: str, content: bytes):
    """The archive with one record replaced."""
    other = path.with_name("replaced.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for record in old.namelist():
            new.writestr(record, content if record.endswith(name) else old.read(record))
    return other


def test_an_impossible_option_is_refused(published, tmp_path, capsys):
    assert main([str(published()), str(tmp_path / "ours.pt"), "--time-steps", "0"]) == 1
    assert "time_steps is 0, expected 1 or more" in capsys.readouterr().err


def refused(path, tmp_path, capsys) -> str:
    """Run the command on the file: exit code 1, nothing written, one line that names the file."""
    out = tmp_path / "out.pt"
    assert main([str(path), str(out)]) == 1
    assert not out.exists()
    said = capsys.readouterr().err
    assert said.startswith(f"error: {path}: ")
    assert said.count("\n") == 1
    return said


def test_unreadable_files_are_refused(published, tmp_path, capsys):
    whole = published()
    absent, text, cut = (tmp_path / name for name in ("absent.pt", "text.pt", "cut.pt"))
    text.write_text("not a checkpoint")
    cut.write_bytes(whole.read_bytes()[:5000])
    assert "no such file" in refused(absent, tmp_path, capsys)
    assert "not a zip archive" in refused(text, tmp_path, capsys)
    assert "not a zip archive" in refused(cut, tmp_path, capsys)
    assert "cannot be read" in refused(replaced(whole, "data.pkl", b"\x80\x02("), tmp_path, capsys)
    assert "storage 0 holds 3 bytes" in refused(replaced(whole, "data/0", b"abc"), tmp_path, capsys)


def test_files_with_other_content_are_refused(small_state, tmp_path, capsys):
    path = tmp_path / "other.pt"
    for content, complaint in (
        ([1, 2], "holds a list, expected a dict"),
        ({"weights": 3}, "holds keys ['weights'], expected 'ema', 'model', 'state_dict' or"),
        ({"model": {"conv.weight": 1}}, "holds keys ['model']"),
        ({"model": {"conv.weight": torch.zeros(1)}}, "this is not a SpikeYOLO state_dict"),
        ({**small_state, "model.99.bias": torch.zeros(1)}, "extra tensor 'model.99.bias'"),
    ):
        torch.save(content, path)
        assert complaint in refused(path, tmp_path, capsys)


def test_a_tensor_beyond_its_storage_is_refused(tmp_path, capsys):
    """A hand-made pickle that asks for 10 values of a storage of 2."""
    path = tmp_path / "greedy.pt"
    torch.save({"x": torch.zeros(2)}, path)
    with zipfile.ZipFile(path) as archive:
        content = archive.read("greedy/data.pkl")
    size = pickle.dumps((2,), 2)[2:-1]
    greedy = content.replace(size.split(b"q")[0], pickle.dumps((10,), 2)[2:-1].split(b"q")[0])
    assert greedy != content
    assert "cannot be read" in refused(replaced(path, "data.pkl", greedy), tmp_path, capsys)
