"""`python -m preprocessing verify CACHE`: is every file of a cache there, whole and current?"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py

from gen1.spec import counted
from preprocessing.cache import (
    Manifest,
    Report,
    Source,
    difference_of,
    open_cache,
    read_header,
    read_manifest,
    read_sample,
)


@dataclass(frozen=True)
class Check:
    """What was found about one cache file: nothing, or the problem in a few words.

    `kind` is "" (good), "missing", "damaged", "stale" or "unexpected"; `compared` says whether
    the recording it was made of was still there to compare with.
    """

    path: Path
    kind: str = ""
    problem: str = ""
    compared: bool = True


def verify(directory: str | Path, deep: bool = False) -> Iterator[Check]:
    """Check every file that the manifest lists and every other .h5 file, in order.

    deep decompresses every sample against its checksum and counts its events. Raises
    ValueError if there is no manifest or preprocessing has not finished.
    """
    directory = Path(directory)
    manifest = read_manifest(directory, finished=True)
    listed = set()
    for split, reports in manifest.recordings.items():
        for name, report in reports.items():
            path = directory / split / f"{name}.h5"
            listed.add(path)
            yield check_file(path, manifest, report, deep)
    for path in sorted(set(directory.rglob("[!.]*.h5")) - listed):
        yield Check(path, "unexpected", "the manifest does not list it")


def check_file(path: Path, manifest: Manifest, report: dict[str, Any], deep: bool) -> Check:
    """Check one cache file against the manifest's settings and report."""
    if not path.exists():
        return Check(path, "missing", "there is no such file")
    try:
        with open_cache(path) as file:
            header = read_header(file)
            if difference := difference_of(header, manifest.settings, manifest.dataset):
                return Check(path, "stale", f"made with {difference}")
            if asdict(header.report) != report:
                return Check(path, "stale", "its report is not the manifest's")
            _read_all(file, header.report, deep)
    except (ValueError, OSError, RuntimeError) as error:
        return Check(path, "damaged", " ".join(str(error).split()))
    problem, compared = _compare_sources(header.sources)
    return Check(path, "stale" if problem else "", problem, compared)


def summary(checks: list[Check], failed: dict[str, str]) -> list[str]:
    """The result in lines for people, the verdict first."""
    kinds = Counter(check.kind for check in checks if check.kind)
    counts = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    lines = [f"{counted(len(checks), 'files')}: {counts or 'all good'}"]
    if absent := sum(not check.compared for check in checks):
        lines.append(f"{absent} not compared with their recordings, which are not there any more")
    if failed:
        lines.append(f"{counted(len(failed), 'recordings')} left out, not usable:")
        lines += [f"  {name}: {reason}" for name, reason in failed.items()]
    return lines


def _read_all(file: h5py.File, report: Report, deep: bool) -> None:
    """Read labels and times, and every sample if deep; raises ValueError for what is missing."""
    labels, times_us = file["labels"][:], file["times_us"][:]
    stored = file["frames"].id.get_num_chunks()
    if not (len(times_us) == report.windows == stored):
        found = f"{stored} samples for {len(times_us)} times and {len(labels)} labels"
        raise ValueError(f"{found}, expected {report.windows}")
    if deep:
        counted = sum(int(read_sample(file, row).sum()) for row in range(stored))
        if counted != report.tally.counted:
            raise ValueError(f"{counted} events in its samples, expected {report.tally.counted}")


def _compare_sources(sources: tuple[Source, ...]) -> tuple[str, bool]:
    """What has changed since, and whether every source was there to compare with."""
    compared = True
    for source in sources:
        path = Path(source.directory, source.name)
        if not source.directory or not path.exists():
            compared = False
        elif Source.of(path) != source:
            return f"{path} has changed since", True
    return "", compared
