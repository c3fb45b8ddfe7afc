"""Every code block of README and docs runs, on stand-ins for the files that it names."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gen1.dat import write_dat
from gen1.labels import write_boxes
from gen1.spec import GEN1
from models import build_model
from models.authors import FROZEN, tensor_names
from preprocessing.__main__ import main as preprocess
from tests.conftest import flickering_boxes
from tests.places import furnish_data, furnish_masks, furnish_pictures
from training.loop import Trainer

HEIGHT, WIDTH = GEN1.sensor_hw

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "checkpoints" / "README.md"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Commands that a block may call; each writes down how it was called instead of running.
RECORDED = ("python", "torchrun", "make", "sbatch", "bash", "pip", "conda")
#: What makes a command as short as a test must be; the last word on an option counts.
SHORTER = {
    "train_gen1.py": "--model.name spikeyolo-p --epochs 1 --batch-size 4 --workers 0 --device cpu "
    "--threads 1 --pictures 0 --optim.accumulate 1 --amp off --detect.score-threshold 0.3",
    "eval_gen1.py": "--energy-samples 1 --pictures 1 --device cpu --detect.score-threshold 0.3",
    "preprocessing": "--workers 1",
    "simulator": "--workers 1 --train 1 --seconds 1",
    "images.eval": "--side 64 --pictures 1 --energy-samples 1 --detect.score-threshold 0.3",
    "images.train": "--model.name spikeyolo-p --epochs 1 --batch-size 2 --workers 0 --side 64 "
    "--amp off --threads 1 --device cpu --detect.score-threshold 0.3",
    "images.detect": "--side 64",
    "segmentation.train": "--epochs 1 --batch-size 2 --workers 0 --threads 1 --device cpu "
    "--model.name spike2former-tiny --framing.crop-height 128 --framing.crop-width 160 --side 128",
    "segmentation.eval": "--energy-samples 1 --examples 1 --device cpu",
}
#: The same for those that ask for clips, of recordings with three windows.
SHORTER_CLIPS = "--stream.clip 2 --stream.random-share 0.75"
RECORDINGS = ("GEN1", "/data/gen1")


def blocks(*languages: str) -> list:
    """The code blocks of all pages in these languages, each with its page and place as name."""
    found = []
    for page in PAGES:
        for match in BLOCK.finditer(page.read_text()):
            if match[1] in languages:
                line = page.read_text()[: match.start()].count("\n") + 1
                found.append(pytest.param(match[2], id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def is_commands(block: str) -> bool:
    return any(line.split()[:1] and line.split()[0] in RECORDED for line in block.splitlines())


SHELL = [p for p in blocks("", "bash") if is_commands(p.values[0])]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory like a clone in which somebody has worked: recordings, a cache, a run."""
    place = tmp_path_factory.mktemp("clone")
    for name in ("configs", "slurm", "tests"):
        (place / name).symlink_to(ROOT / name)
    (place / "checkpoints").mkdir()
    network = shutil.copy(ROOT / "checkpoints" / "spikeyolo-p-synthetic.pt", place / "checkpoints")
    for run in ("RUN", "demo/run"):
        (place / run).mkdir(parents=True)
        shutil.copy(network, place / run / "best.pt")
    rng = np.random.default_rng(5)
    for folder, count in {"recordings/train": 2, "recordings/val": 1, "recordings/test": 1}.items():
        (place / folder).mkdir(parents=True)
        for number in range(count):
            events, boxes = flickering_boxes(rng, label_times=2)
            write_dat(place / folder / f"r{number}_td.dat", events, HEIGHT, WIDTH)
            write_boxes(place / folder / f"r{number}_bbox.npy", boxes)
    for name in ("drive_td.dat", "RECORDING_td.dat"):
        shutil.copy(place / "recordings/test/r0_td.dat", place / name)
    settings = ["--window-ms", "250", "--time-steps", "4", "--workers", "1"]
    preprocess(["--input", str(place / "recordings"), "--output", str(place / "CACHE"), *settings])
    model = build_model("spikeyolo-p", variant="gen1", in_channels=3)
    theirs = {name: model.state_dict()[ours] for ours, name in tensor_names(model).items()}
    torch.save(theirs | FROZEN, place / "best.pt")
    furnish_data(place)
    furnish_pictures(place)
    furnish_masks(place)
    return place


def calls(block: str, place: Path) -> list[list[str]]:
    """What bash would call for the commands of a block, in order, with its quoting and braces."""
    shims = place / "shims"
    shims.mkdir(exist_ok=True)
    for name in RECORDED:
        lines = (
            f'#!/bin/sh\nfor word in {name} "$@"; do printf "%s\\0" "$word"; done\nprintf "\\n"\n'
        )
        (shims / name).write_text(lines)
        (shims / name).chmod(0o755)
    (place / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
    (place / ".venv" / "bin" / "activate").touch()
    path = f"{shims}:{os.environ['PATH']}"
    done = subprocess.run(
        [shutil.which("bash"), "-euc", block],
        cwd=place,
        env={"PATH": path},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return [line.split("\0") for line in done.stdout.decode().split("\0\n")[:-1]]


def run_python(words: list[str], place: Path, monkeypatch) -> None:
    """`python words` in `place` and in this process; exit code 0 or a finding of verify (1)."""
    name, *rest = words[1:] if words[0] == "-m" else words
    module = name.removesuffix(".py").replace("/", ".")
    package = ROOT / module.replace(".", "/")
    module += ".__main__" if (package / "__main__.py").exists() else ""
    rest = [str(place / "recordings") if word in RECORDINGS else word for word in rest]
    verifies = "verify" in rest
    if not verifies and "--help" not in rest:
        clips = SHORTER_CLIPS if "--stream.clip" in rest else ""
        rest += f"{SHORTER.get(Path(name).name, '')} {clips}".split()
    monkeypatch.setattr(sys, "argv", [name, *rest])
    monkeypatch.setattr(Trainer, "step", Trainer.step)  # rank_run.py replaces it
    code = importlib.import_module(module).main()
    assert not code or (verifies and code == 1), f"{words} ended with {code}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*labels have no sample")  # strides end before a recording does
@pytest.mark.parametrize("block", SHELL)
def test_commands_run(block, place, monkeypatch):
    monkeypatch.chdir(place)
    shutil.rmtree("cache", ignore_errors=True)  # of another page
    for name, *words in calls(block, place):
        if name == "torchrun":  # on one process here; tests/training/test_ranks.py starts several
            name, words = "python", words[2:]
        if name == "python":
            run_python(words, place, monkeypatch)
        elif name == "make":
            targets = [word for word in words if not word.startswith("-")]
            subprocess.run(["make", "-n", *targets], cwd=ROOT, check=True, capture_output=True)
        elif name in ("sbatch", "bash"):
            (script,) = (word for word in words if word.endswith(".sbatch"))
            subprocess.run([shutil.which("bash"), "-n", str(ROOT / script)], check=True)


STAND_INS = {"camera": [np.zeros(0, [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "u1")])]}


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"))
def test_python_runs(block, place, monkeypatch):
    monkeypatch.chdir(place)
    exec(block, {"__name__": "page", **STAND_INS})


@pytest.mark.parametrize("name", ["spikeyolo-p", "ems-res10"])
def test_readme_python_works_for_every_family(name):
    (block,) = (p.values[0] for p in blocks("python") if p.id.startswith("README.md"))
    for written, small in (("spikeyolo-s", name), ("256, 320", "64, 96")):
        assert written in block
        block = block.replace(written, small)
    found: dict = {"__name__": "page"}
    exec(block, found)
    criterion = found["model"].criterion({"cls": 0.25})
    assert criterion.gains.cls == 0.25
    losses = criterion(found["model"](found["x"]), torch.tensor([[0, 1, 4.0, 4, 30, 20]]))
    assert min(losses.values()) > 0
    assert len(found["detections"]) == 1
    assert found["report"].ann_mj > found["report"].snn_mj > 0
