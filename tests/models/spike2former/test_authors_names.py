"""The authors' names, strict both ways, and what shapes tell of a network."""

import json

import pytest
import torch

from models import build_model
from models.authors import convert_state_dict, infer_config, tensor_names
from models.authors.__main__ import convert_file
from models.authors.spike2former import their_shape
from models.checkpoint import load_model
from tests.models.spike2former.conftest import FIGURES

V2_L = {"queries": 200, "decoder_layers": 9, "encoder_hidden": 2048}
KEY_FILES = {"keys_ade20k_nc150": {}, "keys_ade20k_V2_L_nc150": V2_L}
THERE = [name for name in KEY_FILES if (FIGURES / f"{name}.json").is_file()]


@pytest.mark.parametrize("case", THERE)
def test_golden_names_and_shapes(case):
    said = json.loads((FIGURES / f"{case}.json").read_text())
    state = {key: torch.empty(shape, device="meta") for key, shape, _ in said["keys"]}
    with torch.device("meta"):
        model = build_model("spike2former-15m", axes="published", **KEY_FILES[case])
    assert infer_config(state) == model.config
    model.load_state_dict(convert_state_dict(state), strict=True)
    assert sum(p.numel() for p in model.parameters()) == said["params_total"]
    assert set(tensor_names(model).values()) == set(state)


@pytest.mark.parametrize("path", sorted(FIGURES.glob("keys_espikeformer_*.json")))
def test_golden_names_of_the_other_backbone(path):
    said = json.loads(path.read_text())
    theirs = {f"backbone.{key}": tuple(shape) for key, shape, _ in said["keys"]}
    size = path.stem.rpartition("_")[2].lower()
    with torch.device("meta"):
        model = build_model(f"spike2former-e-{size}", in_channels=3)
    names = {ours: key for ours, key in tensor_names(model).items() if ours.startswith("spike")}
    shapes = {names[o]: tuple(t.shape) for o, t in model.state_dict().items() if o in names}
    assert {key: tuple(their_shape(key, torch.Size(s))) for key, s in shapes.items()} == theirs
    assert sum(p.numel() for p in model.spikeformer.parameters()) == said["params_total"]


@pytest.fixture(scope="module")
def small_state():
    """A small network with the authors' names and shapes."""
    torch.manual_seed(0)
    model = build_model("spike2former-tiny", num_classes=5, in_channels=3, decoder_heads=8)
    ours = model.state_dict()
    names = tensor_names(model).items()
    return {theirs: ours[o].view(their_shape(theirs, ours[o].shape)) for o, theirs in names}


def test_a_converted_file_is_one_of_our_checkpoints(small_state, tmp_path):
    torch.save({"state_dict": small_state, "meta": {}}, tmp_path / "theirs.pth")
    said = convert_file(tmp_path / "theirs.pth", tmp_path / "ours.pt")
    assert "spike2former-tiny, variant coco, 5 classes, 3 input channels" in said
    model, checkpoint = load_model(tmp_path / "ours.pt")
    assert checkpoint.config.axes == "published"
    key = "decode_head.transformer_decoder.layers.1.ffn.fc2.weight"
    ours = {theirs: name for name, theirs in tensor_names(model).items()}[key]
    assert torch.equal(model.state_dict()[ours][..., 0], small_state[key])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("decode_head.w"), "missing tensor 'decode_head.w'"),
        (lambda s: s.update(x=torch.zeros(1)), "extra tensor 'x'"),
        (
            lambda s: s.update({"decode_head.cls_embed.weight": torch.zeros(6, 64, 1)}),
            r"'decode_head\.cls_embed\.weight' has shape \(6, 64, 1\), expected \(6, 64\)",
        ),
        (lambda s: s.pop("decode_head.query_feat.weight"), "this is not a Spike2Former state_dict"),
    ],
)
def test_other_tensors_are_refused(small_state, change, message):
    state = dict(small_state)
    change(state)
    with pytest.raises(ValueError, match=message):
        convert_state_dict(state)
