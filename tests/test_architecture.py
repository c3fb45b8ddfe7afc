"""Doors open one way only: which room may import which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "gen1": set(),
    "models": set(),
    "simulator": {"gen1"},
    "preprocessing": {"gen1"},
    "streaming": {"gen1", "models", "preprocessing"},
    "evaluation": {"gen1", "models", "preprocessing"},
    "eval_gen1": {"gen1", "models", "preprocessing", "evaluation"},
    "detect_gen1": {"gen1", "models", "preprocessing", "evaluation", "streaming"},
    "training": {"gen1", "models", "preprocessing", "evaluation", "eval_gen1"},
    "train_gen1": {"gen1", "models", "preprocessing", "evaluation", "training", "eval_gen1"},
}


def files_of(room):
    package = ROOT / room
    return sorted(package.rglob("*.py")) if package.is_dir() else [package.with_suffix(".py")]


def imported_rooms(path, everywhere=True):
    """Top-level names of what a file imports: anywhere in it, or only when it is loaded."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_to_the_left(room):
    for path in files_of(room):
        others = set(imported_rooms(path)) & (set(MAY_IMPORT) | {"tests", "benchmarks"})
        assert others <= MAY_IMPORT[room] | {room}, path


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_heavy_and_optional_packages_are_imported_late(room):
    for path in files_of(room):
        assert not set(imported_rooms(path, everywhere=False)) & {"cupy", "tonic"}, path


def test_gen1_knows_no_torch():
    for path in files_of("gen1"):
        assert "torch" not in set(imported_rooms(path)), path
