"""One set of pinned versions serves pip, make and conda."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, TOOLS = PYPROJECT["project"], PYPROJECT["tool"]
OURS_ALONE = ("tests", "benchmarks", ".venv")  # not installed
FIXED_BY_THE_USER = {
    "spikingjelly", "torch", "numpy", "h5py", "tonic", "cupy-cuda12x", "pycocotools",
}  # fmt: skip


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ;]", requirement)[0].lower().replace("_", "-")


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().split()
    return {name_of(line): line.split("==")[1] for line in lines}


def test_everything_the_project_asks_for_is_pinned():
    extras = [r for group in PROJECT["optional-dependencies"].values() for r in group]
    for requirement in PROJECT["dependencies"] + extras:
        assert name_of(requirement) in {*pinned(), PROJECT["name"]}, requirement


def test_cuda_stays_an_extra():
    assert not any("cupy" in requirement for requirement in PROJECT["dependencies"])


def test_every_package_is_installed_with_its_types():
    packages = TOOLS["setuptools"]["packages"]
    folders = {path.parent for path in ROOT.glob("*/**/__init__.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert {name for name in found if not name.startswith(OURS_ALONE)} == set(packages)
    for name in packages:
        assert (ROOT / name.split(".")[0] / "py.typed").exists(), name


def test_conda_users_get_the_same_set():
    *_, from_pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    lines = from_pip["pip"]
    assert "--constraint constraints.txt" in lines
    named = {name_of(line) for line in lines if not line.startswith("--")}
    assert named >= FIXED_BY_THE_USER
    assert named <= set(pinned())
