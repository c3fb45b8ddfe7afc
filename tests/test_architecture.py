"""Doors open one way only: which room may import which, and no circle within a room."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = ("gen1", "preprocessing", "models", "training", "evaluation")
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
MAY_IMPORT = {
    "gen1": set(),
    "models": set(),
    "simulator": {"gen1"},
    "preprocessing": {"gen1"},
    "evaluation": {"gen1", "models", "preprocessing"},
    "streaming": {"gen1", "models", "preprocessing", "evaluation"},
    "training": {"gen1", "models", "preprocessing", "evaluation"},
    "eval_gen1": {"gen1", "models", "preprocessing", "evaluation"},
    "images": {"gen1", "models", "evaluation", "training"},
    "segmentation": {"gen1", "models", "preprocessing", "evaluation", "training"},
    "detect_gen1": {"gen1", "models", "preprocessing", "evaluation", "streaming"},
    "train_gen1": {"gen1", "models", "preprocessing", "evaluation", "training"},
}
#: Wings of a core room that the rest of it does not load: a registry may open them when asked.
RINGS = ("models.kernels", "models.ems", "models.spike2former", "models.authors", "models.export")


def modules() -> dict[str, Path]:
    """Dotted name -> file, of every room and script."""
    packages = [ROOT / room for room in MAY_IMPORT if (ROOT / room).is_dir()]
    files = [file for package in packages for file in sorted(package.rglob("*.py"))]
    files += [ROOT / f"{script}.py" for script in sorted(SCRIPTS)]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


MODULES = modules()


def imports(path: Path, when_loaded: bool = False) -> set[str]:
    """Dotted names that a file imports: anywhere in it, or outside its functions."""
    found = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            submodules = {f"{module}.{alias.name}" for alias in node.names} & set(MODULES)
            found |= submodules or {module}
        elif not (when_loaded and isinstance(node, ast.FunctionDef)):
            waiting += ast.iter_child_nodes(node)
    return found


def room_of(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def is_in(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def test_every_room_and_script_has_its_doors():
    assert {room for room in MAY_IMPORT if not (ROOT / room).is_dir()} == SCRIPTS
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert rooms == set(MAY_IMPORT) - SCRIPTS


@pytest.mark.parametrize("module", MODULES)
def test_rooms_import_only_to_the_left(module):
    rooms = {room_of(other) for other in imports(MODULES[module])}
    others = rooms & (set(MAY_IMPORT) | {"tests", "benchmarks"})
    doors = {"gen1"} if MODULES[module].name == "__main__.py" else set()
    assert others <= MAY_IMPORT[room_of(module)] | {room_of(module)} | doors


def test_one_room_alone_parses_command_lines():
    parse = {"argparse", "jsonargparse"}
    found = {name for name, path in MODULES.items() if imports(path) & parse}
    assert found - SCRIPTS == {"gen1.command"}


def test_the_core_loads_no_ring():
    core = [name for name in MODULES if is_in(name, CORE) and not is_in(name, RINGS)]
    for module in core:
        assert not [o for o in imports(MODULES[module], True) if is_in(o, RINGS)], module


def test_nothing_imports_in_circles():
    open_doors = {name: imports(path) & set(MODULES) - {name} for name, path in MODULES.items()}
    while leaves := {name for name, others in open_doors.items() if not others & set(open_doors)}:
        open_doors = {name: o for name, o in open_doors.items() if name not in leaves}
    assert not open_doors


@pytest.mark.parametrize("module", MODULES)
def test_heavy_and_optional_packages_are_imported_late(module):
    loaded = {room_of(other) for other in imports(MODULES[module], when_loaded=True)}
    assert not loaded & {"cupy", "tonic", "onnx", "onnxruntime", "nir"}


def test_gen1_knows_no_torch():
    for module, path in MODULES.items():
        if room_of(module) == "gen1":
            assert "torch" not in {room_of(other) for other in imports(path)}, module
