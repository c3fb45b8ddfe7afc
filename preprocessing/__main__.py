"""`python -m preprocessing`: a directory of recordings -> a cache of histograms.

`python -m preprocessing verify CACHE` checks the result.
"""

import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from gen1 import command
from gen1.ending import fail
from gen1.recordings import Recording, list_recordings, spec_of
from gen1.spec import DATASETS, DatasetSpec, counted, find_spec
from preprocessing.build import Estimate, Outcome, build, estimate
from preprocessing.cache import read_manifest
from preprocessing.cluster import (
    connect_to_cluster,
    make_executor,
    start_slurm_jobs,
    stop,
    worker_deaths,
)
from preprocessing.histogram import HistogramSettings
from preprocessing.rvt import list_sequences, settings_of
from preprocessing.verify import summary, verify

DESCRIPTION = """Turn recordings into a cache of event histograms, one HDF5 file each.
Safe to interrupt: the same command goes on where it stopped.

  python -m preprocessing --input GEN1 --output CACHE --workers 16
        250 ms before every label, in 4 bins
  python -m preprocessing --input GEN1 --output CACHE --every-ms 50
        a sample every 50 ms, labels or not
  python -m preprocessing --input DSEC --output CACHE --dataset dsec --keep masks
        250 ms before every class mask, NAME_masks/TIME.png: for segmentation
  python -m preprocessing --input MINE --output CACHE --dataset mine.yaml
        a sensor and classes of your own: docs/data.md
  python -m preprocessing rvt RVT CACHE
        a set that RVT's scripts preprocessed: python -m preprocessing rvt --help
  python -m preprocessing verify CACHE
        what is missing, stale or damaged: python -m preprocessing verify --help"""

DATASET_HELP = f"{', '.join(DATASETS)}; a YAML file with height, width and classes; or labels: "
DATASET_HELP += "classes as the label files number them, the sensor of the first recording"
INPUT_HELP = "tree of {train,val,test}/ with *_td.dat, or other formats (docs/data.md), and "
INPUT_HELP += "*_bbox.npy; or a text file that lists recordings"
#: Options in ms of settings that are stored in us.
IN_MS = {
    "window": "events before a label that count, in ms",
    "every": "samples at this stride from the first event on, in ms; 0 takes the label times",
    "denoise": "leave out events that no neighbour had in so many ms before; 0 leaves none out",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 after an error, 130 after Ctrl-C."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["verify"]:
        title = "Find missing, stale and damaged files of a cache; exit code 1 if any."
        parser = command.command_line("python -m preprocessing verify", title, verify_cache)
        return command.run(parser, verify_cache, words[1:])
    failed = partial(fail, memory="lower --workers")
    again = "run the same command again to go on from here"
    if words[:1] == ["rvt"]:
        title = "Make a cache of a set that RVT's scripts preprocessed: its frames of 50 ms."
        parser = command.command_line("python -m preprocessing rvt", title, import_rvt)
        return command.run(parser, import_rvt, words[1:], interrupted=again, failed=failed)
    return command.run(command_line(), preprocess, words, interrupted=again, failed=failed)


def command_line() -> command.CommandLine:
    """The options; every one says its unit."""
    parser = command.command_line("python -m preprocessing", DESCRIPTION)
    add = parser.add_argument
    add("--input", type=Path, required=True, help=INPUT_HELP)
    add("--output", type=Path, required=True, help="directory of the cache, made if missing")
    add("--workers", type=int, default=1, help="processes; 1 works in this one")
    add("--scheduler", default="", help="address of a Dask cluster to work on, tcp://host:port")
    add("--slurm", type=int, default=0, help="SLURM jobs to submit as workers: docs/cluster.md")
    add("--dry_run", type=bool, default=False, help="only say how long and large it would be")
    add("--overwrite", type=bool, default=False, help="replace files made with other settings")
    data = parser.add_argument_group("What the recordings are of")
    data.add_argument("--dataset", default="gen1", help=DATASET_HELP)
    for side in ("height", "width"):
        text = f"sensor {side} in px, if another than the data set's"
        data.add_argument(f"--{side}", type=int | None, default=None, help=text)
    settings = parser.add_argument_group("What a sample is")
    for name, text in IN_MS.items():
        default_ms = getattr(HistogramSettings, f"{name}_us") / 1000
        settings.add_argument(f"--{name}_ms", type=float, default=default_ms, help=text)
    elsewhere = {f"{name}_us" for name in IN_MS} | {"height", "width"}
    settings.add_class_arguments(HistogramSettings, as_group=False, skip=elsewhere)
    return parser


def verify_cache(cache: str | Path, deep: bool = False, delete: bool = False) -> int:
    """Print what is wrong with a cache and what to do; 0 if nothing is.

    Args:
        cache: Directory that --output named.
        deep: Decompress and check every sample.
        delete: Delete stale and damaged files.
    """
    failed = read_manifest(cache).failed
    checks = []
    for check in verify(cache, deep):
        checks.append(check)
        if check.kind:
            print(f"{check.path}: {check.kind}: {check.problem}")
    print("\n".join(summary(checks, failed)))
    bad = [check for check in checks if check.kind]
    if bad and delete:
        for check in bad:
            if check.kind != "unexpected":
                check.path.unlink(missing_ok=True)
        print("deleted: run the same `python -m preprocessing` again to make them again")
    elif bad:
        print("to make them again: verify with --delete, then the same `python -m preprocessing`")
    return 1 if bad else 0


def preprocess(
    input: Path,
    output: Path,
    workers: int,
    scheduler: str,
    slurm: int,
    dry_run: bool,
    overwrite: bool,
    dataset: str,
    height: int | None,
    width: int | None,
    **sample: Any,
) -> None:
    """Build the cache of recordings, or say how large it would be.

    sample: the settings of a sample as options, times in ms.
    """
    if sample["representation"] == "rvt":
        raise ValueError(
            "representation is rvt, expected count or last-polarity: see "
            "`python -m preprocessing rvt --help` for sets that RVT preprocessed"
        )
    in_us = {f"{name}_us": round(1000 * sample.pop(f"{name}_ms")) for name in IN_MS}
    needs_boxes = not in_us["every_us"] and sample["keep"] != "masks"
    recordings = list_recordings(input.absolute(), require_labels=needs_boxes)
    spec = spec_of(recordings) if dataset == "labels" else find_spec(dataset)
    sensor: dict[str, Any] = {"height": height or spec.height, "width": width or spec.width}
    settings = HistogramSettings(**in_us, **sample, **sensor)
    if dry_run:
        print(_forecast(estimate(recordings, settings, spec), len(recordings), workers))
        return
    fill(recordings, output, settings, spec, workers, scheduler, slurm, overwrite)


def import_rvt(
    input: str | Path,
    output: str | Path,
    time_steps: int = 1,
    workers: int = 1,
    scheduler: str = "",
    slurm: int = 0,
    overwrite: bool = False,
) -> None:
    """Make a cache of a set that RVT's scripts preprocessed, with a progress bar.

    Args:
        input: Tree of {train,val,test}/NAME/{event_representations_v2,labels_v2}.
        output: Directory of the cache, made if missing.
        time_steps: T, steps of 50 ms before every label; more than 1 where RVT's frames touch,
            which those of Gen1 may not.
        workers: Processes; 1 works in this one.
        scheduler: Address of a Dask cluster to work on, tcp://host:port.
        slurm: SLURM jobs to submit as workers: docs/cluster.md.
        overwrite: Replace files made with other settings.
    """
    recordings = list_sequences(Path(input).absolute())
    settings, spec = settings_of(recordings, time_steps)
    fill(recordings, Path(output), settings, spec, workers, scheduler, slurm, overwrite)


def fill(
    recordings: list[Recording],
    output: Path,
    settings: HistogramSettings,
    spec: DatasetSpec,
    workers: int,
    scheduler: str,
    slurm: int,
    overwrite: bool,
) -> None:
    """Build a cache with a progress bar and print what was found.

    Raises ValueError at the end if recordings could not be used.
    """
    n_bytes = sum(recording.dat.stat().st_size for recording in recordings)
    executor, in_flight = choose_executor(workers, scheduler, slurm, len(recordings))
    outcomes = []
    try:
        results = build(
            recordings,
            output.absolute(),
            settings,
            executor,
            in_flight=in_flight,
            overwrite=overwrite,
            dataset=spec,
        )
        started = time.perf_counter()
        with tqdm(total=n_bytes, unit="B", unit_scale=True, desc="preprocessing") as bar:
            for outcome in results:
                outcomes.append(outcome)
                bar.set_postfix_str(_rates(outcomes, time.perf_counter() - started))
                bar.update(outcome.recording.dat.stat().st_size)
    except worker_deaths():
        found = "a worker process died, perhaps for lack of memory"
        raise ChildProcessError(f"{found}; run the same command again to go on") from None
    finally:
        stop(executor)
    print(_findings(outcomes))
    if failures := [outcome.error for outcome in outcomes if outcome.error]:
        found = f"{len(failures)} of {len(outcomes)} recordings could not be used"
        raise ValueError(f"{found}: {'; '.join(failures)}")


def choose_executor(
    workers: int, scheduler: str, slurm: int, n_recordings: int
) -> tuple[Executor, int]:
    """What --workers, --scheduler or --slurm ask for, and how many tasks it takes at a time.

    A cluster, whose workers come and go, gets all of them; raises ValueError for two of these.
    """
    if (workers > 1) + bool(scheduler) + (slurm > 0) > 1:
        raise ValueError("expected only one of --workers, --scheduler and --slurm")
    if scheduler:
        return connect_to_cluster(scheduler), n_recordings
    if slurm > 0:
        return start_slurm_jobs(slurm), n_recordings
    return make_executor(workers), max(1, 2 * workers)


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
        f"{counted(len(reports), 'recordings')} ({sum(o.reused for o in outcomes)} already done), "
        f"{counted(sum(r.windows for r in reports), 'windows')}, "
        f"{counted(sum(r.tally.events for r in reports), 'events')} in them"
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
            lines.append(counted(count, meaning))
    return "\n".join(lines)


enter = command.door(main)
if __name__ == "__main__":
    enter()
