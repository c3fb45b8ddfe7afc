"""Every configuration in the repository can be used and says what it is."""

from pathlib import Path

import pytest

from models import build_network
from train_gen1 import config_of

EVERY = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
OF_RINGS = ("coco_authors", "demo_images", "segmentation")  # tests/images, tests/segmentation
CONFIGS = [path for path in EVERY if path.stem not in OF_RINGS]


def load(path, *options):
    return config_of(["--config", str(path), "--cache", "c", "--output", "o", *options])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads_and_builds_a_network(path):
    assert build_network(load(path).model).config.num_classes == 2


@pytest.mark.parametrize(
    "path", [p for p in CONFIGS if p.stem.startswith("gen1")], ids=lambda path: path.stem
)
def test_its_header_gives_command_cost_and_result(path):
    header = path.read_text()
    assert f"python train_gen1.py --config configs/{path.name} --cache CACHE" in header
    for line in ("# 8 GPUs: ", "# Cache: ", "# Cost: ", "# Result: "):
        assert line in header


@pytest.mark.parametrize("size", "nsml")
def test_the_authors_sizes_differ_in_the_name_alone(size):
    (path,) = (path for path in CONFIGS if path.stem == "gen1_authors")
    name = f"spikeyolo-{size}"
    recipe, small = load(path, "--model.name", name).written(), load(path).written()
    assert recipe["model"].pop("name") == name
    del small["model"]["name"]
    assert recipe == small
