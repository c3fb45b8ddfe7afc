"""The cache: OUT/manifest.json and one HDF5 file OUT/{split}/{recording}.h5 per recording.

A file holds `frames` uint8 [N, T, 2, H, W] (one chunk per sample, Blosc lz4 with bit shuffle),
the sample times `times_us` int64 [N] and all `labels` (BOX, sensor px); `still_us` int64, a row
per label, where the labels say for how long their objects have stood still. Its attributes
`settings`, `source` and `report` (JSON) say what shaped the bytes; nothing in it depends on when
or by how many workers it was made. Data and HDF5's own structures all carry checksums.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gen1.atomic import atomic_write
from gen1.masks import mask_times_us
from gen1.recordings import Recording
from gen1.spec import BOX, GEN1, DatasetSpec, spec_from
from gen1.still import still_path
from preprocessing.chunks import FILTERS, decode_chunk, encode_chunk
from preprocessing.histogram import KEEPS_ALL, EventTally, HistogramSettings

SCHEMA = 2
#: How much of a source is hashed: evenly spaced stretches, the first and the last among them.
PIECES, PIECE_BYTES = 32, 1 << 16
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Source:
    """Identity of a file: size, modification time, SHA-256 of PIECES stretches of it.

    Of a folder of masks: how many, 0, SHA-256 of their times. `directory` is where it was found; a
    file that moved is still the same.
    """

    name: str
    size_bytes: int
    mtime_ns: int
    content_sha256: str
    directory: str = field(default="", compare=False)

    @classmethod
    def of(cls, path: Path) -> "Source":
        """Read it from the file on disk; whole files of up to PIECES * PIECE_BYTES are hashed."""
        directory = str(path.parent.resolve())
        if path.is_dir():  # what masks show is in no cache
            times_us = mask_times_us(path)
            digest = hashlib.sha256(times_us.astype("<i8").tobytes()).hexdigest()
            return cls(path.name, len(times_us), 0, digest, directory)
        status = path.stat()
        content = hashlib.sha256()
        last_start = max(0, status.st_size - PIECE_BYTES)
        starts = {last_start * i // (PIECES - 1) for i in range(PIECES)}
        with path.open("rb") as file:
            for start in sorted(starts):
                file.seek(start)
                content.update(file.read(PIECE_BYTES))
        return cls(path.name, status.st_size, status.st_mtime_ns, content.hexdigest(), directory)


@dataclass(frozen=True)
class Report:
    """What preprocessing one recording found and did.

    `tally` sums over windows, so an event in two windows counts twice; `moved` events
    came after later ones, `left_out` had impossible times, `wraps` are overflows of the clock
    (gen1.clock); `trailing_bytes` is the length of a truncated last record, which was dropped.
    The last four say how many events a window has.
    """

    windows: int
    events: int
    tally: EventTally = field(default_factory=EventTally)
    moved: int = 0
    left_out: int = 0
    wraps: int = 0
    trailing_bytes: int = 0
    fewest_events: int = 0
    median_events: int = 0
    most_events: int = 0
    empty_windows: int = 0


def report_of(tallies: list[EventTally], **known: int) -> Report:
    """What is worth knowing about a recording whose windows had these tallies."""
    events = np.array([tally.events for tally in tallies] or [0])
    return Report(
        windows=len(tallies),
        tally=sum(tallies, EventTally()),
        fewest_events=int(events.min()),
        median_events=int(np.median(events)),
        most_events=int(events.max()),
        empty_windows=sum(tally.events == 0 for tally in tallies),
        **known,
    )


@dataclass(frozen=True)
class Header:
    """The attributes of a cache file."""

    settings: HistogramSettings
    sources: tuple[Source, ...]
    report: Report
    dataset: DatasetSpec = GEN1


def sources_of(recording: Recording, keep: str = "") -> tuple[Source, ...]:
    """Identity of a recording's files: events, masks if `keep` is "masks", labels if any.

    What says of labels for how long they stood still comes before them.
    """
    masks, boxes = recording.masks if keep == "masks" else None, recording.boxes
    still = still_path(boxes) if boxes and still_path(boxes).is_file() else None
    return tuple(Source.of(path) for path in (recording.dat, masks, still, boxes) if path)


class OutputError(OSError):
    """The cache cannot be written: nothing is wrong with the recording, so the run ends."""


@contextmanager
def create_cache(
    path: Path,
    settings: HistogramSettings,
    sources: tuple[Source, ...],
    times_us: np.ndarray,
    boxes: np.ndarray,
    dataset: DatasetSpec = GEN1,
    still_us: np.ndarray | None = None,
) -> Iterator[h5py.Dataset]:
    """Write a cache file under a temporary name; path appears only once it is complete.

    Yields its frames: write every sample, then the report.
    Raises OutputError if there is no room or no permission; then path is as it was.
    """
    shape = (len(times_us), *settings.frame_shape)
    resizable = (None, *shape[1:])  # HDF5 chunks may not be longer than a fixed, empty axis
    checked = {"fletcher32": True, "track_times": False}
    with (
        writing(path),
        atomic_write(path) as temporary,
        h5py.File(temporary.name, "w", libver=("v110", "v110"), locking=False) as file,
    ):
        file.attrs["schema"] = SCHEMA
        file.attrs["settings"] = json.dumps(asdict(settings))
        file.attrs["source"] = json.dumps([asdict(source) for source in sources])
        if dataset != GEN1:  # which older files mean
            file.attrs["dataset"] = json.dumps(dataset.as_dict())
        columns = [("times_us", times_us.astype("<i8")), ("labels", boxes.astype(BOX))]
        columns += [] if still_us is None else [("still_us", still_us.astype("<i8"))]
        for name, rows in columns:
            size = {"maxshape": (None,), "chunks": (max(1, len(rows)),)}
            stored = file.create_dataset(name, data=rows, **size, **checked)
            stored.id.close()  # or the layout depends on when Python frees it
        frames = file.create_dataset(
            "frames",
            shape,
            np.uint8,
            maxshape=resizable,
            chunks=(1, *shape[1:]),
            track_times=False,
            **FILTERS,
        )
        yield frames


def write_sample(frames: h5py.Dataset, index: int, sample: np.ndarray) -> None:
    """Store one sample, uint8 [T, 2, H, W]."""
    frames.id.write_direct_chunk((index, 0, 0, 0, 0), encode_chunk(sample))


def write_report(file: h5py.File, report: Report) -> None:
    """Store what happened to the events."""
    file.attrs["report"] = json.dumps(asdict(report))


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write inside the block into an OutputError of one sentence.

    HDF5 raises OSError with many lines when it writes, but RuntimeError when it closes a file;
    torch raises RuntimeError while it handles the OSError of a write.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        of_system = re.search(r"error message = '([^']*)'", str(error))
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not of_system and not isinstance(cause, OSError):
            raise
        reason = of_system[1] if of_system else getattr(cause, "strerror", None) or str(cause)
        raise OutputError(f"{path}: cannot be written ({reason})") from None


def open_cache(path: str | Path) -> h5py.File:
    """Open a cache file for reading; raises ValueError if it is corrupt or not one of ours."""
    path = Path(path)
    expected = "expected a file written by `python -m preprocessing`"
    try:
        file = h5py.File(path, "r", rdcc_nbytes=0, locking=False)
    except OSError as error:
        reason = "there is no such file" if not path.exists() else f"not readable HDF5 ({error})"
        raise ValueError(f"{path}: {reason}, {expected}") from None
    try:
        found = _schema_mismatch(file)
    except (OSError, KeyError, RuntimeError) as error:
        found = f"damaged HDF5 ({error})"
    if found:
        file.close()
        raise ValueError(f"{path}: {found}, {expected}")
    return file


def read_header(file: h5py.File) -> Header:
    """The attributes of an open cache file; raises ValueError if they cannot be understood."""
    try:
        report = json.loads(file.attrs["report"])
        return Header(
            HistogramSettings(**json.loads(file.attrs["settings"])),
            tuple(Source(**source) for source in json.loads(file.attrs["source"])),
            Report(**{**report, "tally": EventTally(**report["tally"])}),
            spec_from(json.loads(text), file.filename)
            if (text := file.attrs.get("dataset"))
            else GEN1,
        )
    except (KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        found = f"attributes that cannot be understood ({error})"
        raise ValueError(f"{file.filename}: {found}, expected those of a cache file") from None


def read_sample(file: h5py.File, index: int) -> np.ndarray:
    """Decompress one sample, uint8 [T, 2, H, W]; raises ValueError if its bytes are damaged."""
    dataset = file["frames"]
    try:
        skipped_filters, chunk = dataset.id.read_direct_chunk((index, 0, 0, 0, 0))
        if skipped_filters:
            raise ValueError("it was stored by another program")
        return decode_chunk(chunk, dataset.shape[1:])
    except (OSError, RuntimeError, ValueError) as error:
        found = f"sample {index} is damaged ({error})"
        raise ValueError(f"{file.filename}: {found}, delete it and preprocess again") from None


def describe_difference(found: HistogramSettings, expected: HistogramSettings) -> str:
    """The settings that differ, as "window_us 250000, expected 100000"; empty if none."""
    pairs = [(f.name, getattr(found, f.name), getattr(expected, f.name)) for f in fields(found)]
    return "; ".join(
        f"{name} {KEEPS_ALL if old == '' else old}, expected {KEEPS_ALL if new == '' else new}"
        for name, old, new in pairs
        if old != new
    )


@dataclass(frozen=True)
class Manifest:
    """Index of a cache: its settings and, once complete, {split: {recording: Report}}.

    `failed`: "split/recording" -> the sentence that says why it is not in the cache. `dataset`:
    what the recordings are of; labels in the cache are its classes.
    """

    settings: HistogramSettings
    complete: bool
    recordings: dict[str, dict[str, Any]]
    failed: dict[str, str]
    dataset: DatasetSpec = GEN1


def difference_of(
    found: Header | Manifest, settings: HistogramSettings, dataset: DatasetSpec
) -> str:
    """In what a cache, or a file of it, is not of these settings and this data set; or ""."""
    parts = describe_difference(found.settings, settings), found.dataset.unlike(dataset)
    return "; ".join(part for part in parts if part)


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Write directory/manifest.json atomically."""
    text = json.dumps({"schema": SCHEMA, **asdict(manifest)}, indent=1)
    path = directory / MANIFEST
    with writing(path), atomic_write(path) as file:
        file.write(text.encode() + b"\n")


def read_manifest(directory: str | Path, finished: bool = False) -> Manifest:
    """Read directory/manifest.json; raises ValueError if it is missing or not one of ours.

    With `finished` also if preprocessing is not.
    """
    path = Path(directory) / MANIFEST
    expected = "expected the directory that `python -m preprocessing --output` wrote"
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file, {expected}")
    try:
        content = json.loads(path.read_bytes())
        schema = content.pop("schema")
        settings = HistogramSettings(**content.pop("settings"))
        dataset = content.pop("dataset", None)  # older caches mean Gen1
        spec = spec_from(dataset, str(path)) if dataset else GEN1
        manifest = Manifest(settings, **content, dataset=spec)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        found = f"cannot be understood ({error})"
        raise ValueError(f"{path}: {found}, {expected}") from None
    if schema != SCHEMA:
        raise ValueError(f"{path}: schema {schema}, expected {SCHEMA}: preprocess again")
    if finished and not manifest.complete:
        hint = "run the same `python -m preprocessing` again"
        raise ValueError(f"{directory}: preprocessing has not finished, expected all of it: {hint}")
    return manifest


def _schema_mismatch(file: h5py.File) -> str:
    """What is wrong with the layout of an open file; empty if nothing."""
    if "schema" not in file.attrs or not {"frames", "times_us", "labels"} <= set(file):
        return "an HDF5 file of another kind"
    if file.attrs["schema"] != SCHEMA:
        return f"schema {file.attrs['schema']}"
    frames, times_us, labels = file["frames"], file["times_us"], file["labels"]
    if frames.ndim != 5 or frames.dtype != np.uint8 or times_us.shape != frames.shape[:1]:
        return f"frames {frames.dtype} {frames.shape} for {times_us.shape} times"
    if labels.dtype != BOX:
        return f"labels of type {labels.dtype}"
    return ""
