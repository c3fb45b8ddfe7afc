"""`python -m gen1.labels convert SOURCE OUTPUT`: labels of other formats -> *_bbox.npy."""

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


main = command.entry(
    "python -m gen1.labels",
    "Turn labels of other formats into ours.",
    convert_labels,
    word="convert",
)
enter = command.door(main)
if __name__ == "__main__":
    enter()
