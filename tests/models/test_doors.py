"""What a reader types first works for every family: README's lines, and paths as text."""

import ast
from pathlib import Path

import pytest
import torch

from models import build_model
from models.authors import tensor_names
from models.authors.__main__ import convert_file
from models.checkpoint import checkpoint_file, load_checkpoint, load_model, save_checkpoint
from models.deploy.__main__ import deploy_file
from models.share import share

ROOT = Path(__file__).parents[2]
README, MODELS = (ROOT / "README.md").read_text(), ROOT / "models"


def imported_when_loaded(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            yield from (node.module or "", *(f"{node.module}.{name.name}" for name in node.names))


def test_the_core_of_models_imports_no_wing():
    wings = ("models.ems", "models.authors", "models.kernels")
    core = [*MODELS.glob("*.py"), *(MODELS / "deploy").glob("*.py")]
    assert len(core) > 10
    for path in core:
        assert not [name for name in imported_when_loaded(path) if name.startswith(wings)], path


@pytest.mark.parametrize("name", ["spikeyolo-p", "ems-res10"])
def test_the_python_lines_of_the_readme_run(name):
    (code,) = (part.split("```")[0] for part in README.split("```python\n")[1:])
    for written, small in (("spikeyolo-s", name), ("256, 320", "32, 64")):
        assert written in code
        code = code.replace(written, small)
    found: dict = {}
    exec(code, found)
    criterion = found["model"].criterion({"cls": 0.25})
    assert criterion.gains.cls == 0.25
    losses = criterion(found["model"](found["x"]), torch.tensor([[0, 1, 4.0, 4, 30, 20]]))
    assert min(losses.values()) > 0
    assert len(found["detections"]) == 1
    assert found["report"].ann_mj > 0


def test_paths_may_be_text(tmp_path):
    model = build_model("spikeyolo-p", variant="gen1", time_steps=1, activation="relu")
    run, small, deployed = (str(tmp_path / name) for name in ("run", "s.pt", "d.pt"))
    save_checkpoint(f"{run}/best.pt", model.config, model.state_dict(), {})
    assert checkpoint_file(run) == tmp_path / "run" / "best.pt"
    share(run, small)
    assert "batch norms" in deploy_file(run, deployed)
    assert load_checkpoint(small).kind == "trained"
    assert load_model(deployed)[1].kind == "deployed"
    names = tensor_names(model)
    theirs = {names[name]: tensor for name, tensor in model.state_dict().items()}
    theirs["model.26.dfl.conv.weight"] = torch.arange(16.0).view(1, 16, 1, 1)
    torch.save(theirs, tmp_path / "theirs.pt")
    convert_file(f"{tmp_path}/theirs.pt", f"{tmp_path}/ours.pt", None, None, None)
    assert load_checkpoint(f"{tmp_path}/ours.pt").meta["source"] == "theirs.pt"
