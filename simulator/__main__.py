"""`python -m simulator OUT` fills OUT/{train,val,test} with *_td.dat and *_bbox.npy."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from gen1.spec import SPLITS
from simulator.recordings import Job, Settings, plan, run


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m simulator",
        description="Simulate an event camera (240x304 px) driving through streets and write "
        "labelled recordings in Gen1's own files. The same seed gives the same bytes on every "
        "machine. Run the same command again to continue an interrupted run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder to fill: OUT/{train,val,test}/*_td.dat")
    for split, count in zip(SPLITS, (24, 6, 6), strict=True):
        parser.add_argument(
            f"--{split}", type=int, default=count, metavar="N", help=f"recordings in OUT/{split}"
        )
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S",
        help="length of every recording in seconds, a multiple of 0.25 (labels come at 4 Hz)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0, help="which streets; every recording has its own"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N",
        help="recordings simulated at once, one process each",
    )  # fmt: skip
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; a user's mistake ends in one sentence and exit status 1."""
    options = _parse(arguments)
    recordings = {split: getattr(options, split) for split in SPLITS}
    try:
        if min(recordings.values()) < 0 or options.workers < 1:
            found = f"{recordings} recordings by {options.workers} workers"
            raise ValueError(f"{found}, expected no negative number and at least one worker")
        jobs = plan(options.out, recordings, Settings(options.seconds, options.seed))
        events = _run_with_progress(jobs, sum(recordings.values()), options.workers)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    kept = sum(recordings.values()) - len(jobs)
    print(f"{options.out}: {len(jobs)} recordings made, {kept} kept from before; {events:,} events")


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


if __name__ == "__main__":
    main()
