"""`python -m preprocessing`: a directory of recordings -> a cache of histograms.

`python -m preprocessing verify CACHE` checks the result.
"""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace
from tqdm import tqdm

from gen1.recordings import list_recordings
from gen1.spec import HEIGHT, WIDTH
from preprocessing.build import Estimate, Outcome, build, estimate
from preprocessing.cache import read_manifest
from preprocessing.cluster import (
    connect_to_cluster,
    make_executor,
    start_slurm_jobs,
    stop,
    worker_deaths,
)
from preprocessing.ending import fail, leave
from preprocessing.histogram import HistogramSettings
from preprocessing.verify import summary, verify

INPUT_HELP = "tree of {train,val,test}/*_td.dat and *_bbox.npy, or a text file that lists *_td.dat"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 after an error, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["verify"]:
        return verify_cache(verify_command_line().parse_args(argv[1:]))
    arguments = command_line().parse_args(argv)
    try:
        outcomes = preprocess(arguments)
    except worker_deaths():
        found = "a worker process died, perhaps for lack of memory"
        print(f"error: {found}; run the same command again to go on", file=sys.stderr)
        return 1
    except Exception as error:
        return fail(error, memory="lower --workers")
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on from here", file=sys.stderr)
        return 130
    failures = [outcome.error for outcome in outcomes if outcome.error]
    if failures:
        found = f"{len(failures)} of {len(outcomes)} recordings could not be used"
        print(f"error: {found}: {'; '.join(failures)}", file=sys.stderr)
    return 1 if failures else 0


def command_line() -> ArgumentParser:
    """The options; every one says its unit."""
    parser = ArgumentParser(
        prog="python -m preprocessing",
        description="Turn recordings into a cache of event histograms, one HDF5 file each. "
        "Safe to interrupt: the same command goes on where it stopped.",
    )
    add = parser.add_argument
    add("--input", type=Path, required=True, help=INPUT_HELP)
    add("--output", type=Path, required=True, help="directory of the cache, made if missing")
    add("--window-ms", type=float, default=250.0, help="events before a label that count, in ms")
    add("--time-steps", type=int, default=4, help="equal bins of the window, T")
    add("--workers", type=int, default=1, help="processes; 1 works in this one")
    add("--scheduler", default="", help="address of a Dask cluster to work on, tcp://host:port")
    add("--slurm", type=int, default=0, help="SLURM jobs to submit as workers: docs/cluster.md")
    add(
        "--representation",
        type=Literal["count", "last-polarity"],
        default="count",
        help="events per bin and cell (255 at most), or a 1 for the last one's polarity",
    )
    add("--downsample", type=int, default=1, help="sensor px per side of a cell: 1, 2 or 4")
    add("--height", type=int, default=HEIGHT, help="expected sensor height in px")
    add("--width", type=int, default=WIDTH, help="expected sensor width in px")
    add(
        "--every-ms",
        type=float,
        default=0.0,
        help="samples at this stride, from the first event on",
    )
    add("--keep", default="", help="only label times with a box that counts: prophesee, rvt")
    add(
        "--denoise-ms",
        type=float,
        default=0.0,
        help="leave out events that no neighbour had before",
    )
    add("--hot-pixel-hz", type=float, default=0.0, help="leave out pixels with more events/s")
    add("--dry-run", action="store_true", help="only say how long and how large it would be")
    add("--overwrite", action="store_true", help="replace files made with other settings")
    return parser


def verify_command_line() -> ArgumentParser:
    """The options of `verify`."""
    parser = ArgumentParser(
        prog="python -m preprocessing verify",
        description="Find missing, stale and damaged files of a cache; exit code 1 if any.",
    )
    parser.add_argument("cache", type=Path, help="directory that --output named")
    parser.add_argument("--deep", action="store_true", help="decompress and check every sample")
    parser.add_argument("--delete", action="store_true", help="delete stale and damaged files")
    return parser


def verify_cache(arguments: Namespace) -> int:
    """Print what is wrong with a cache and what to do; 0 if nothing is."""
    try:
        failed = read_manifest(arguments.cache).failed
        checks = []
        for check in verify(arguments.cache, arguments.deep):
            checks.append(check)
            if check.kind:
                print(f"{check.path}: {check.kind}: {check.problem}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(summary(checks, failed)))
    bad = [check for check in checks if check.kind]
    if bad and arguments.delete:
        for check in bad:
            if check.kind != "unexpected":
                check.path.unlink(missing_ok=True)
        print("deleted: run the same `python -m preprocessing` again to make them again")
    elif bad:
        print("to make them again: verify with --delete, then the same `python -m preprocessing`")
    return 1 if bad else 0


def settings_of(arguments: Namespace) -> HistogramSettings:
    """The settings that the command line asks for."""
    return HistogramSettings(
        window_us=round(arguments.window_ms * 1000),
        time_steps=arguments.time_steps,
        representation=arguments.representation,
        downsample=arguments.downsample,
        height=arguments.height,
        width=arguments.width,
        every_us=round(arguments.every_ms * 1000),
        keep=arguments.keep,
        denoise_us=round(arguments.denoise_ms * 1000),
        hot_pixel_hz=arguments.hot_pixel_hz,
    )


def preprocess(arguments: Namespace) -> list[Outcome]:
    """Build the cache with a progress bar and print what was found."""
    settings = settings_of(arguments)
    require_labels = not settings.every_us
    recordings = list_recordings(arguments.input.absolute(), require_labels=require_labels)
    if arguments.dry_run:
        print(_forecast(estimate(recordings, settings), len(recordings), arguments.workers))
        return []
    n_bytes = sum(recording.dat.stat().st_size for recording in recordings)
    executor, in_flight = choose_executor(arguments, len(recordings))
    outcomes = []
    try:
        results = build(
            recordings,
            arguments.output.absolute(),
            settings,
            executor,
            in_flight=in_flight,
            overwrite=arguments.overwrite,
        )
        started = time.perf_counter()
        with tqdm(total=n_bytes, unit="B", unit_scale=True, desc="preprocessing") as bar:
            for outcome in results:
                outcomes.append(outcome)
                bar.set_postfix_str(_rates(outcomes, time.perf_counter() - started))
                bar.update(outcome.recording.dat.stat().st_size)
    finally:
        stop(executor)
    print(_findings(outcomes))
    return outcomes


def choose_executor(arguments: Namespace, n_recordings: int) -> tuple[Executor, int]:
    """What --workers, --scheduler or --slurm ask for, and how many tasks it takes at a time.

    A cluster, whose workers come and go, gets all of them; raises ValueError for two of these.
    """
    cluster = bool(arguments.scheduler), arguments.slurm > 0
    if sum(cluster) + (arguments.workers > 1) > 1:
        raise ValueError("expected only one of --workers, --scheduler and --slurm")
    if arguments.scheduler:
        return connect_to_cluster(arguments.scheduler), n_recordings
    if arguments.slurm > 0:
        return start_slurm_jobs(arguments.slurm), n_recordings
    return make_executor(arguments.workers), max(1, 2 * arguments.workers)


def _forecast(expected: Estimate, n_recordings: int, workers: int) -> str:
    """What --dry-run says."""
    seconds = expected.seconds / max(1, workers)
    return (
        f"{n_recordings} recordings, about {expected.windows} windows: "
        f"{expected.size_bytes / 2**20:.1f} MiB in {seconds:.0f} s with {max(1, workers)} workers"
    )


def _rates(outcomes: list[Outcome], seconds: float) -> str:
    made = [o.report for o in outcomes if o.report and not o.reused]
    windows = sum(report.windows for report in made)
    events = sum(report.tally.events for report in made)
    return f"{windows / seconds:.0f} windows/s, {events / seconds / 1e6:.1f} M events/s"


def _findings(outcomes: list[Outcome]) -> str:
    """One line per thing worth knowing about the whole input."""
    reports = [outcome.report for outcome in outcomes if outcome.report]
    lines = [
        f"{len(reports)} recordings ({sum(o.reused for o in outcomes)} already done), "
        f"{sum(r.windows for r in reports)} windows, "
        f"{sum(r.tally.events for r in reports)} events in them"
    ]
    if any(r.windows for r in reports):
        fewest = min(r.fewest_events for r in reports if r.windows)
        medians = sorted(r.median_events for r in reports if r.windows)
        lines.append(
            f"events per window: {fewest} to {max(r.most_events for r in reports)}, "
            f"{medians[len(medians) // 2]} in the median recording's median window"
        )
    for count, meaning in (
        (sum(r.empty_windows for r in reports), "windows without any event"),
        (sum(r.tally.filtered for r in reports), "events left out as noise"),
        (sum(r.tally.out_of_frame for r in reports), "events out of frame, ignored"),
        (sum(r.tally.clipped for r in reports), "events beyond what their cell holds, clipped"),
        (sum(r.moved for r in reports), "events came after later ones, put in their place"),
        (sum(r.left_out for r in reports), "events at impossible times, left out"),
        (sum(r.wraps for r in reports), "overflows of the clock, repaired"),
        (
            sum(r.trailing_bytes > 0 for r in reports),
            "recordings lost a truncated last record",
        ),
    ):
        if count:
            lines.append(f"{count} {meaning}")
    return "\n".join(lines)


if __name__ == "__main__":
    leave(main())
