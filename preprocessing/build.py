"""Turn recordings into cache files: one independent, restartable task per recording."""

import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from errno import ENOLCK, ENOSYS, EOPNOTSUPP
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from gen1.dat import DatReader
from gen1.labels import read_boxes, refuse_foreign_times
from gen1.masks import mask_times_us, masks_of
from gen1.opening import open_recording
from gen1.protocol import protocols_of
from gen1.recordings import Recording
from gen1.spec import BOX, GEN1, DatasetSpec
from gen1.still import read_still
from preprocessing.cache import (
    MANIFEST,
    Header,
    Manifest,
    OutputError,
    Report,
    create_cache,
    difference_of,
    open_cache,
    read_header,
    read_manifest,
    report_of,
    sources_of,
    write_manifest,
    write_report,
    write_sample,
    writing,
)
from preprocessing.denoise import hot_pixels
from preprocessing.histogram import HistogramSettings, window_histogram
from preprocessing.rvt import import_sequence

#: Events of the memory map that a worker keeps in memory at most, 64 MiB.
MAX_MAPPED_EVENTS = 1 << 23
CLAIM, PATIENCE_S = ".claim", 3.0
#: Recordings that an estimate is made from.
TRIED = 3


@dataclass(frozen=True)
class Outcome:
    """What became of a recording: a report, or the sentence that says why there is none.

    `reused`: the cache file was there already and still matched.
    """

    recording: Recording
    report: Report | None
    reused: bool = False
    error: str = ""


def cache_path(output: Path, recording: Recording) -> Path:
    """Where the cache file of a recording belongs."""
    return output / recording.split / f"{recording.name}.h5"


def build(
    recordings: list[Recording],
    output: Path,
    settings: HistogramSettings,
    executor: Executor,
    in_flight: int = 1,
    overwrite: bool = False,
    dataset: DatasetSpec = GEN1,
) -> Iterator[Outcome]:
    """Bring the cache at output up to date; yields each recording's outcome as it is known.

    A file whose settings, data set and sources still match is left alone, a stale or unreadable
    one is made again. Raises ValueError at once if output holds other settings, unless overwrite,
    or another run writes there; OutputError if it cannot be written, keeping what is finished.
    At most in_flight tasks are with the executor at a time. The manifest is `complete` only at
    the end.
    """
    folders = {output / recording.split for recording in recordings}
    with ExitStack() as let_go:
        with writing(output):
            for folder in folders:
                folder.mkdir(parents=True, exist_ok=True)
            let_go.enter_context(claim(output))
        if not overwrite:
            refuse_other_settings(recordings, output, settings, dataset)
        _remove_leftovers(output)
        write_manifest(output, Manifest(settings, False, {}, {}, dataset))
        claimed = let_go.pop_all()
    return _run(recordings, output, settings, dataset, executor, in_flight, claimed)


def claim(directory: Path) -> AbstractContextManager[Any]:
    """Claim a directory until the context ends, or the process dies however it dies.

    Raises ValueError if a living run holds it. On a file system without locks nothing is
    claimed: two runs there waste work, but each writes whole files under names of its own
    before it renames them.
    """
    try:
        return FileLock(directory / CLAIM, fallback_to_soft=False).acquire(PATIENCE_S)
    except Timeout:
        found = "another run of `python -m preprocessing` is writing here"
        raise ValueError(f"{directory}: {found}, wait for it to end") from None
    except OSError as error:
        if error.errno not in (ENOLCK, ENOSYS, EOPNOTSUPP):
            raise
        return nullcontext()


def build_recording(
    recording: Recording, path: Path, settings: HistogramSettings, dataset: DatasetSpec = GEN1
) -> Report:
    """Write the cache file of one recording. Raises ValueError for a file that is not usable."""
    if settings.representation == "rvt":
        return import_sequence(recording, path, settings, dataset)
    with open_sized(recording.dat, settings) as reader:
        return build_histograms(recording, path, settings, dataset, reader)


def build_histograms(
    recording: Recording,
    path: Path,
    settings: HistogramSettings,
    dataset: DatasetSpec,
    reader: DatReader,
) -> Report:
    """Write the cache file of a recording's events."""
    sources = sources_of(recording, settings.keep)
    boxes, still_us = np.zeros(0, BOX), None
    if recording.boxes:
        labels = read_boxes(recording.boxes)
        boxes = dataset.classify(labels, str(recording.boxes))
        still_us = read_still(recording.boxes, len(labels))
        if still_us is not None:
            still_us = still_us[~np.isin(labels["class_id"], dataset.ignored_ids)]
    _ = reader.order  # raises before anything is written
    asked, source = boxes, recording.boxes
    if settings.keep == "masks":
        asked, source = times_of_masks(recording), recording.masks
    if source and reader.n_events:
        span_us = reader.order.first_us, reader.order.last_us
        refuse_foreign_times(asked, str(source), *span_us, settings.window_us)
    times_us = sample_times(asked, reader, settings, dataset)
    hot = None
    if settings.hot_pixel_hz:
        hot = hot_pixels(reader, settings.height, settings.width, settings.hot_pixel_hz)
    tallies, mapped = [], 0
    with create_cache(path, settings, sources, times_us, boxes, dataset, still_us) as frames:
        for i, start_us in enumerate((times_us - settings.window_us).tolist()):
            sample, tally = window_histogram(reader, start_us, settings, hot)
            write_sample(frames, i, sample)
            tallies.append(tally)
            mapped += tally.events
            if mapped > MAX_MAPPED_EVENTS:
                reader.release()
                mapped = 0
        order = reader.order
        report = report_of(
            tallies,
            events=reader.n_events,
            moved=order.moved,
            left_out=order.left_out,
            wraps=order.wraps,
            trailing_bytes=reader.trailing_bytes,
        )
        if 2 * report.tally.out_of_frame > report.tally.events:
            found = f"{report.tally.out_of_frame} of {report.tally.events} events read"
            found += f" lie beyond {settings.height}x{settings.width} px"
            raise ValueError(f"{recording.dat}: {found}, expected few: of another sensor?")
        write_report(frames.file, report)
    return report


def times_of_masks(recording: Recording) -> np.ndarray:
    """The times of a recording's masks as BOX [n]; ValueError without any."""
    if not recording.masks:
        expected = f"expected a folder {masks_of(recording.dat).name} of TIME.png"
        raise ValueError(f"{recording.dat}: no masks beside it, {expected}")
    times_us = mask_times_us(recording.masks)
    asked = np.zeros(len(times_us), BOX)
    asked["t"] = times_us
    return asked


def sample_times(
    boxes: np.ndarray, reader: DatReader, settings: HistogramSettings, dataset: DatasetSpec
) -> np.ndarray:
    """When the samples of a recording end, int64 [N] in us, ascending.

    boxes: its labels, or what has their times.
    """
    if settings.every_us:
        return stride_times(reader.order.first_us, reader.order.last_us, settings.every_us)
    if settings.keep and settings.keep != "masks":
        boxes = protocols_of(dataset)[settings.keep].scored_labels(boxes)
    return np.unique(boxes["t"])


def stride_times(first_us: int, last_us: int, every_us: int) -> np.ndarray:
    """Times first_us + every_us, first_us + 2 every_us, ... in us, int64 [N].

    The last is at most one us past last_us: windows [t - every_us, t) lie inside the recording.
    """
    return np.arange(first_us + every_us, last_us + 2, every_us, dtype=np.int64)


@contextmanager
def open_sized(path: Path, settings: HistogramSettings) -> Iterator[DatReader]:
    """Open a recording; raises ValueError if it names another sensor size."""
    with open_recording(path) as reader:
        found = (reader.height or settings.height, reader.width or settings.width)
        if found != (settings.height, settings.width):
            expected = f"{settings.height}x{settings.width}"
            raise ValueError(f"{path}: sensor of {found[0]}x{found[1]} px, expected {expected}")
        yield reader


def finished_report(
    recording: Recording, path: Path, settings: HistogramSettings, dataset: DatasetSpec
) -> Report | None:
    """Report of the cache file at path if it is this recording's under these settings."""
    header = _header(path)
    if not header or header.settings != settings or header.dataset.unlike(dataset):
        return None
    return header.report if header.sources == sources_of(recording, settings.keep) else None


class Estimate(NamedTuple):
    """Expected size of a cache in bytes, windows in it, and seconds that one worker needs."""

    windows: int
    size_bytes: int
    seconds: float


def estimate(
    recordings: list[Recording], settings: HistogramSettings, dataset: DatasetSpec = GEN1
) -> Estimate:
    """Preprocess up to TRIED recordings of the list elsewhere and scale by the files' sizes.

    Raises ValueError if one of them is not usable.
    """

    def size(some: list[Recording]) -> int:
        return sum(recording.dat.stat().st_size for recording in some)

    step = max(1, len(recordings) // TRIED)
    tried = recordings[::step][:TRIED]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sample.h5")
        build_recording(tried[0], path, settings, dataset)  # warm: compiled code, cached file
        started, windows, written = time.perf_counter(), 0, 0
        for recording in tried:
            windows += build_recording(recording, path, settings, dataset).windows
            written += path.stat().st_size
        seconds = time.perf_counter() - started
    share = size(recordings) / max(1, size(tried))
    return Estimate(round(windows * share), round(written * share), seconds * share)


def refuse_other_settings(
    recordings: Iterable[Recording], output: Path, settings: HistogramSettings, dataset: DatasetSpec
) -> None:
    """Raise ValueError if output holds a cache of other settings or of another data set."""
    hint = "use another --output, or --overwrite to replace it"
    found = read_manifest(output) if (output / MANIFEST).exists() else None
    if difference := found and difference_of(found, settings, dataset):
        raise ValueError(f"{output}: holds a cache made with {difference}; {hint}")
    for path in (cache_path(output, recording) for recording in recordings):
        header = _header(path)
        if header and (difference := difference_of(header, settings, dataset)):
            raise ValueError(f"{path}: made with {difference}; {hint}")


def _header(path: Path) -> Header | None:
    """Header of a cache file; None if it is missing, or unreadable and to be made again."""
    try:
        with open_cache(path) as file:
            return read_header(file)
    except ValueError:
        return None


def _run(
    recordings: list[Recording],
    output: Path,
    settings: HistogramSettings,
    dataset: DatasetSpec,
    executor: Executor,
    in_flight: int,
    claimed: ExitStack,
) -> Iterator[Outcome]:
    """Yield every outcome, then write the complete manifest and let go of the output."""
    outcomes: list[Outcome] = []
    running: set[Future[Outcome]] = set()
    waiting = iter(recordings)
    with claimed:
        while True:
            for recording in islice(waiting, in_flight - len(running)):
                path = cache_path(output, recording)
                running.add(executor.submit(_update, recording, path, settings, dataset))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                outcomes.append(future.result())
                yield outcomes[-1]
        _remove_leftovers(output)
        write_manifest(output, _summary(settings, dataset, outcomes))


def _remove_leftovers(output: Path) -> None:
    """Delete the unfinished files of a run, or of cluster workers, that were killed."""
    for leftover in output.rglob(".*.h5.*.tmp"):
        leftover.unlink(missing_ok=True)


def _update(
    recording: Recording, path: Path, settings: HistogramSettings, dataset: DatasetSpec
) -> Outcome:
    """Keep or make the cache file of one recording; runs in a worker."""
    try:
        if report := finished_report(recording, path, settings, dataset):
            return Outcome(recording, report, reused=True)
        return Outcome(recording, build_recording(recording, path, settings, dataset))
    except OutputError:
        raise
    except (ValueError, OSError) as error:
        return Outcome(recording, None, error=str(error))


def _summary(
    settings: HistogramSettings, dataset: DatasetSpec, outcomes: list[Outcome]
) -> Manifest:
    """Manifest of a finished run, in an order that does not depend on who was faster."""
    recordings: dict[str, dict[str, Report]] = {}
    failed = {}
    for outcome in sorted(outcomes, key=lambda o: (o.recording.split, o.recording.name)):
        split, name = outcome.recording.split, outcome.recording.name
        if outcome.report is None:
            failed[f"{split}/{name}"] = outcome.error
        else:
            recordings.setdefault(split, {})[name] = outcome.report
    return Manifest(settings, True, recordings, failed, dataset)
