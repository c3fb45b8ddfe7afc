"""Every command by one kind of door: how its words are read, what it says, how it ends."""

import importlib
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gen1.command import command_line, run

ROOT = Path(__file__).parents[2]
ENTRIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


@dataclass
class Least:
    """Thresholds.

    Args:
        score_of_box: In [0, 1].
    """

    score_of_box: float = 0.5


@dataclass
class Settings:
    """Settings of a test.

    Args:
        source: What to read.
        batch_size: Samples.
        keep_all: Leave nothing out.
        least: Thresholds.
    """

    source: str
    batch_size: int = 1
    keep_all: bool = False
    least: Least = field(default_factory=Least)


def settings(*words):
    found = {}
    parser = command_line("x", "What it does.", Settings, as_positional=True)
    assert run(parser, found.update, words) == 0
    return found


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a_b-c", "--batch-size", "2"], {"source": "a_b-c", "batch_size": 2}),
        (["--batch_size=2", "a_b-c"], {"source": "a_b-c", "batch_size": 2}),
        (["a", "--least.score-of-box", "0.1"], {"least": Least(0.1)}),
        (["a", "--least.score_of_box=0.1"], {"least": Least(0.1)}),
        (["--keep-all", "a"], {"source": "a", "keep_all": True}),
        (["a", "--keep_all"], {"keep_all": True}),
        (["a", "--keep-all", "true"], {"keep_all": True}),
        (["a", "--keep-all", "false"], {"keep_all": False}),
        (["--", "--batch_size"], {"source": "--batch_size", "batch_size": 1}),
    ],
)
def test_names_of_options_may_have_hyphens_and_underscores(words, expected):
    found = settings(*words)
    assert {name: found[name] for name in expected} == expected


def test_a_file_of_settings_has_the_names_of_the_fields(tmp_path):
    (tmp_path / "a.yaml").write_text("batch_size: 3\nleast: {score_of_box: 0.2}\n")
    found = settings("a", "--config", str(tmp_path / "a.yaml"))
    assert (found["batch_size"], found["least"]) == (3, Least(0.2))


@pytest.mark.parametrize(
    ("happens", "code", "said"),
    [
        (None, 0, ""),
        (ValueError("x.dat: is empty"), 1, "error: x.dat: is empty\n"),
        (KeyboardInterrupt(), 130, "interrupted: it goes on\n"),
        (KeyError("a fault of ours"), 1, "Traceback"),
    ],
)
def test_how_a_command_ends(happens, code, said, capsys):
    def act():
        if happens:
            raise happens

    assert run(command_line("x", ""), act, [], interrupted="it goes on") == code
    assert capsys.readouterr().err.startswith(said)


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_command_teaches_and_knows_its_words(entry, capsys):
    module = importlib.import_module(ENTRIES[entry].removesuffix(":enter"))
    assert callable(module.enter)
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert re.match(r"usage: (python -m )?\w+", shown)
    assert not re.findall(r"--[\w.-]*_\w*", shown)
    with pytest.raises(SystemExit) as stop:
        module.main(["--no_such_option"])
    assert stop.value.code == 2
    assert "\nerror: " in capsys.readouterr().err
