"""`python -m gen1.labels convert SOURCE OUTPUT`: labels of other formats -> *_bbox.npy."""

import sys
from collections.abc import Sequence
from pathlib import Path

from gen1 import command
from gen1.labels.annotations import convert
from gen1.spec import find_spec


def convert_labels(
    source: str | Path,
    output: str | Path,
    dataset: str = "gen1",
    times: str | Path | None = None,
    recordings: str | Path | None = None,
) -> None:
    """Write labels of another format as *_bbox.npy files and say what they hold.

    Args:
        source: COCO's .json, a folder of YOLO's .txt or of VOC's .xml, or a .npy (DSEC's tracks).
        output: Directory for a file per recording, or the *_bbox.npy of a single one.
        dataset: What they are labels of: gen1, 1mpx, ... or a YAML file, see docs/data.md.
        times: CSV with the columns picture, recording and t_us, for pictures whose names or labels
            say no time.
        recordings: Recordings of one labelled picture each, which their events end with (PEDRo).
    """
    paths = [Path(path) if path else None for path in (times, recordings)]
    for line in convert(Path(source), Path(output), find_spec(dataset), *paths):
        print(line)


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m gen1.labels convert SOURCE OUTPUT`; returns the exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    parser = command.command_line(
        "python -m gen1.labels convert", "Turn labels of other formats into ours.", convert_labels
    )
    if words[:1] == ["convert"]:
        words = words[1:]
    elif not {"--help", "-h"} & {*words}:
        parser.error("expected the word convert first")
    return command.run(parser, convert_labels, words)


enter = command.door(main)
if __name__ == "__main__":
    enter()
