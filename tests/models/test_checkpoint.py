import os

import pytest
import torch

from models import build_model
from models.checkpoint import FORMAT, load_checkpoint, load_model, load_weights, save_checkpoint
from models.deploy import batch_norms, deploy

META = {"name": "spikeyolo-p", "epoch": 3, "histogram": None}


@pytest.fixture
def saved(tmp_path):
    """A network and the checkpoint it was saved to."""
    model = build_model("spikeyolo-p", variant="gen1", max_spikes=2)
    path = tmp_path / "run" / "last.pt"
    save_checkpoint(path, model.config, model.state_dict(), META, {"step": torch.tensor(7)})
    return model, path


def test_round_trip(saved):
    model, path = saved
    loaded, checkpoint = load_model(path)
    assert not loaded.training
    assert loaded.config == checkpoint.config == model.config
    assert checkpoint.meta == META
    assert checkpoint.training["step"] == 7
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_a_failed_write_leaves_the_old_file(saved, monkeypatch):
    model, path = saved
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, model.config, {}, {})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(saved, share):
    _, path = saved
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"last\.pt: not a readable checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"hello", b"\x80\x02]q\x00.", bytes(100)])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.pt: (not a readable checkpoint|found format)"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [({"weights": {}}, "None"), ([1], "'list'"), ({"format": "v0"}, "'v0'")],
)
def test_a_foreign_checkpoint_is_refused(tmp_path, content, found):
    path = tmp_path / "foreign.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=rf"foreign\.pt: found format {found}, expected"):
        load_checkpoint(path)


@pytest.mark.parametrize("change", [{"config": {"tau": 2}}, {"config": {"max_spikes": 0}}, {}])
def test_damaged_content_is_refused(tmp_path, change):
    path = tmp_path / "damaged.pt"
    torch.save({"format": FORMAT, "weights": {}, "meta": {}, "training": {}, **change}, path)
    with pytest.raises(
        ValueError, match=r"damaged\.pt: damaged checkpoint \(.*(tau|max_spikes|config)"
    ):
        load_checkpoint(path)


class Explosive:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_byte_that_has_changed_is_found(saved):
    _, path = saved
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # in the numbers of a tensor, which read as well as before
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.pt: not a readable checkpoint \(ValueError"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(saved, value):
    model, path = saved
    weights = {**model.state_dict(), "sppf.conv1.bn.bias": torch.full((16,), value)}
    save_checkpoint(path, model.config, weights, META)
    with pytest.raises(ValueError, match=r"damaged checkpoint \(sppf\.conv1\.bn\.bias is not fini"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["meta", "weights", "training"])
@pytest.mark.parametrize("content", [None, 3, ["a"]])
def test_parts_of_another_kind_are_refused(saved, name, content):
    _, path = saved
    torch.save({**torch.load(path, weights_only=True), name: content}, path)
    with pytest.raises(ValueError, match=r"last\.pt: damaged checkpoint"):
        load_checkpoint(path)


def test_no_code_in_the_file_is_run(tmp_path):
    path, fuse = tmp_path / "bomb.pt", tmp_path / "executed"
    torch.save({"format": FORMAT, "meta": Explosive(fuse)}, path)
    with pytest.raises(ValueError, match=r"bomb\.pt: not a readable checkpoint"):
        load_checkpoint(path)
    assert not fuse.exists()


def test_weights_of_another_model_are_refused(saved):
    _, path = saved
    weights = load_checkpoint(path).weights
    other = build_model("spikeyolo-p", variant="gen1", num_classes=5)
    with pytest.raises(ValueError, match=r"last\.pt: weights of another model: head\.cls\.0\.2"):
        load_weights(other, weights, path)
    model = build_model("spikeyolo-p", variant="gen1")
    incomplete = {name: tensor for name, tensor in weights.items() if name != "out5.bn2.bias"}
    with pytest.raises(ValueError, match=r"out5\.bn2\.bias: no such tensor, not \(128,\)"):
        load_weights(model, incomplete, path)
    with pytest.raises(ValueError, match=r"extra\.weight: \(1,\), not no such tensor"):
        load_weights(model, {**weights, "extra.weight": torch.zeros(1)}, path)


@pytest.fixture
def deployed_file(tmp_path):
    """A deployed network whose batch norms were not the start's, and its file."""
    torch.manual_seed(0)
    model = build_model("spikeyolo-p", variant="gen1", activation="relu", time_steps=1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.running_mean)
    model, path = deploy(model), tmp_path / "deployed.pt"
    save_checkpoint(path, model.config, model.state_dict(), META, kind="deployed")
    return model, path


@torch.no_grad()
def test_a_deployed_network_comes_back_deployed(deployed_file):
    model, path = deployed_file
    loaded, checkpoint = load_model(path)
    assert checkpoint.kind == "deployed"
    assert (checkpoint.config, checkpoint.meta, checkpoint.training) == (model.config, META, {})
    assert not batch_norms(loaded)
    assert {p.device.type for p in loaded.parameters()} == {"cpu"}
    assert not any(p.requires_grad for p in loaded.parameters())
    x = torch.randint(0, 3, (1, 1, 2, 64, 64)).float()
    for ours, theirs in zip(loaded(x), model(x), strict=True):
        assert ours.abs().max() > 0
        assert torch.equal(ours, theirs)


def test_a_file_of_an_older_version_is_a_trained_network(saved):
    model, path = saved
    content = torch.load(path, weights_only=True)
    del content["kind"]
    torch.save(content, path)
    loaded, checkpoint = load_model(path)
    assert checkpoint.kind == "trained"
    assert torch.equal(loaded.down1.conv.weight, model.down1.conv.weight)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("trained", r"down1\.bn\.weight: no such tensor, not \(16,\)"),
        ("binary", "damaged checkpoint .kind is 'binary', expected one of trained, deployed"),
    ],
)
def test_a_file_that_names_the_wrong_kind_is_refused(deployed_file, kind, expected):
    model, path = deployed_file
    save_checkpoint(path, model.config, model.state_dict(), META, kind=kind)
    with pytest.raises(ValueError, match=expected):
        load_model(path)


def test_trained_weights_are_not_taken_for_deployed_ones(saved):
    model, path = saved
    save_checkpoint(path, model.config, model.state_dict(), META, kind="deployed")
    with pytest.raises(ValueError, match="weights of another model"):
        load_model(path)
