"""The command `python -m models.share`: a checkpoint small enough to pass on."""

from collections.abc import Sequence
from pathlib import Path

import models.share
from gen1 import command


def share(source: Path, output: Path) -> None:
    """Write the small copy and say how large it is."""
    models.share.share(source, output)
    print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command.command_line("python -m models.share", models.share.__doc__)
    parser.add_argument("source", type=Path, help="checkpoint, or run directory (its best.pt)")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    return command.run(parser, share, argv)


enter = command.door(main)
if __name__ == "__main__":
    enter()
