"""numba's cache where nothing can be written: a copy of the code, a home that is no directory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import numba.core.caching
from pathlib import Path
import numpy as np
from gen1.dat import DatReader, write_dat
from gen1.spec import EVENT
if {nowhere}:  # as on a read-only checkout with a read-only home; root may write anywhere
    numba.core.caching.CacheImpl._locator_classes = []
from gen1.compiled import compiled
double = compiled(nogil=True)(lambda x: 2 * x)
assert double(21) == 42
"""


@pytest.mark.parametrize("nowhere", [False, True])
@pytest.mark.parametrize("home", ["a file", "nothing"])
def test_code_compiles_without_a_place_for_a_cache(tmp_path, nowhere, home):
    shutil.copytree(
        ROOT / "gen1", tmp_path / "code" / "gen1", ignore=shutil.ignore_patterns("__*__")
    )
    (tmp_path / "code" / "gen1" / "__pycache__").write_text("so that no cache goes here")
    (tmp_path / "home").write_text("no directory")
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG", "HOME"))
    }
    environment |= {"PYTHONPATH": str(tmp_path / "code"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["HOME"] = str(tmp_path / "home") if home == "a file" else "/proc/nowhere"
    script = tmp_path / "code" / "script.py"
    script.write_text(SCRIPT.format(nowhere=nowhere))
    subprocess.run([sys.executable, str(script)], check=True, env=environment)
