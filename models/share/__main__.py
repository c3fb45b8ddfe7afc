"""The command `python -m models.share`: a checkpoint small enough to pass on."""

from collections.abc import Sequence
from pathlib import Path

from gen1 import command
from models.share import __doc__ as description
from models.share import share


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command.command_line("python -m models.share", description)
    parser.add_argument("source", type=Path, help="checkpoint, or run directory (its best.pt)")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    return command.run(parser, lambda source, output: print(share(source, output)), argv)


enter = command.door(main)
if __name__ == "__main__":
    enter()
