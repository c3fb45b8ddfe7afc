"""`python -m simulator OUT` fills OUT/{train,val,test} with *_td.dat and *_bbox.npy."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from gen1 import command
from gen1.spec import SPLITS
from simulator.cast import ENTRANCES
from simulator.frames import write_instances
from simulator.recordings import Job, Settings, plan, run
from simulator.spec import CLASSES

DESCRIPTION = """Simulate an event camera (240x304 px) driving through streets and write labelled
recordings in Gen1's own files. The same seed gives the same bytes on every machine.
Run the same command again to continue an interrupted run.

Classes other than car and pedestrian are on request; OUT/dataset.yaml then describes the set:
  python -m simulator OUT --classes car pedestrian truck bus two-wheeler cyclist"""


def simulate(
    out: str | Path,
    train: int = 24,
    val: int = 6,
    test: int = 6,
    seconds: float = 10.0,
    seed: int = 0,
    workers: int = os.cpu_count() or 1,
    classes: Sequence[str] = CLASSES,
    frames: bool = False,
    masks: bool = False,
    stops: bool = False,
) -> None:
    """Make the recordings that are not there yet.

    Args:
        out: Folder to fill: OUT/{train,val,test}/*_td.dat.
        train: Recordings in OUT/train.
        val: Recordings in OUT/val.
        test: Recordings in OUT/test.
        seconds: Length of every recording in s, a multiple of 0.25: labels come at 4 Hz.
        seed: Which streets; every recording has its own.
        workers: Recordings simulated at once, one process each.
        classes: Who is in the streets, in the order of the class ids.
        frames: Also OUT/frames: what a frame camera sees at the label times, with COCO's json.
        masks: Also a folder *_masks beside every recording: the class of every pixel at the label
            times, as PNG; OUT/masks.yaml names the classes.
        stops: Streets that need a memory: the camera waits at lights, cars and pedestrians wait
            too. Also *_still_us.npy: for how long each labelled object has stood still.
    """
    recordings = dict(zip(SPLITS, (train, val, test), strict=True))
    if min(recordings.values()) < 0 or workers < 1:
        found = f"{recordings} recordings by {workers} workers"
        raise ValueError(f"{found}, expected no negative number and at least one worker")
    settings = Settings(seconds, seed, classes=tuple(classes), stops=stops)
    jobs = plan(out, recordings, settings, frames, masks)
    events = _run_with_progress(jobs, sum(recordings.values()), workers)
    for split in [split for split, n in recordings.items() if n and frames]:
        write_instances(Path(out), split, settings.classes, settings.label_times_us)
    kept = sum(recordings.values()) - len(jobs)
    print(f"{out}: {len(jobs)} recordings made, {kept} kept from before; {events:,} events")


def _run_with_progress(jobs: Sequence[Job], total: int, workers: int) -> int:
    """The number of events made."""
    events, start = 0, time.perf_counter()
    with tqdm(total=total, initial=total - len(jobs), unit="recording") as bar:
        for count in run(jobs, workers):
            events += count
            rate = events / (time.perf_counter() - start)
            bar.set_postfix_str(f"{rate / 1e6:.2f} million events/s")
            bar.update()
    return events


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command.command_line("python -m simulator", DESCRIPTION, simulate, skip={"classes"})
    parser.add_argument(
        "--classes",
        nargs="+",
        default=list(CLASSES),
        metavar="CLASS",
        help=f"Two or more of {', '.join(ENTRANCES)}; their order is that of the class ids.",
    )
    again = "run the same command again to go on from here"
    return command.run(parser, simulate, argv, interrupted=again)


enter = command.door(main)
if __name__ == "__main__":
    enter()
