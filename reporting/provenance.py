"""Where a number comes from: the commit, the machine, the packages."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("torch", "spikingjelly", "numpy", "pycocotools")


def commit() -> str:
    """Short hash of the checked-out commit, "+changes" if files differ, "unknown" outside git."""
    try:
        revision = _git("rev-parse", "--short=10", "HEAD")
        return revision + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def environment() -> dict[str, str]:
    """Python, machine and package versions, as plain strings."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{name: version(name) for name in PACKAGES},
    }
