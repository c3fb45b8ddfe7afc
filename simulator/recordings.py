"""Labelled recordings of streets, written as Gen1 ships them."""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from gen1.atomic import atomic_write
from gen1.dat import write_dat
from gen1.labels import write_boxes
from gen1.masks import mask_path
from gen1.spec import BOX, DAT_SUFFIX, EVENT, SPLITS
from gen1.still import STILL_PX, still_path, write_still
from simulator.camera import Camera, Sensor
from simulator.cast import ENTRANCES, cast, ego_motion
from simulator.frames import picture_path, write_pictures
from simulator.masks import MIN_OPACITY, class_map, masks_folder, write_classes, write_masks
from simulator.portable import Draws
from simulator.render import Renderer
from simulator.scene import Actor, Ego
from simulator.spec import CLASSES, HEIGHT, WIDTH

#: Raise it whenever a change to the simulator changes the events of a seed.
SIMULATOR_VERSION = 1
SETTINGS_FILE, DATASET_FILE = "synthetic.json", "dataset.yaml"
STEP_US, STILL_STEP_US = 2_000, 20_000
#: Streets with stops draw from seeds of their own.
STOPS_SPACE = 1
LABEL_PERIOD_US = 250_000
#: A recording is held in memory whole: some 20 MB per second.
MAX_SECONDS = 600
#: A label needs this share of its object before all occluders, of its box inside the frame,
#: this many visible pixels, and MIN_OPACITY in the haze.
MIN_UNCOVERED, MIN_INSIDE, MIN_PIXELS = 0.4, 0.3, 40


@dataclass(frozen=True)
class Settings:
    """Everything that decides the bytes of a recording, apart from its split and index."""

    seconds: float
    seed: int
    version: int = SIMULATOR_VERSION
    classes: tuple[str, ...] = CLASSES
    stops: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= MAX_SECONDS or self.duration_us % LABEL_PERIOD_US:
            expected = f"a multiple of 0.25 from 0.25 to {MAX_SECONDS}"
            raise ValueError(f"seconds is {self.seconds:g}, expected {expected}")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}, expected 0 or more")
        unknown = [name for name in self.classes if name not in ENTRANCES]
        if unknown or len(set(self.classes)) != len(self.classes) or len(self.classes) < 2:
            expected = f"two or more of {', '.join(ENTRANCES)}, each once"
            raise ValueError(f"classes are {', '.join(self.classes)}; expected {expected}")

    @property
    def duration_us(self) -> int:
        return round(self.seconds * 1e6)

    @property
    def label_times_us(self) -> list[int]:
        return [t_us - 1 for t_us in range(LABEL_PERIOD_US, self.duration_us + 1, LABEL_PERIOD_US)]

    def stored(self) -> dict[str, Any]:
        """As they lie beside the recordings; classes and stops only where not the default."""
        usual = {"classes": list(CLASSES), "stops": False}
        plain = {**asdict(self), "classes": list(self.classes)}
        return {k: v for k, v in plain.items() if k not in usual or v != usual[k]}


def simulate(
    settings: Settings,
    split: str,
    index: int,
    frames: list[np.ndarray] | None = None,
    masks: list[np.ndarray] | None = None,
    still: list[np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One recording: EVENT [n] in order of time, and BOX [m] labels at 4 Hz.

    Every (seed, split, index) is a street of its own. Labels carry the times 249999, 499999, ...
    frames: is given what a frame camera sees then, int32 [H, W] of log-luminance; masks: the class
    of every pixel, uint8 [H, W]; still: for how long each label's object has not moved in the
    image, int64 [labels] in us.
    """
    space = (STOPS_SPACE,) if settings.stops else ()
    draws = Draws(settings.seed, SPLITS.index(split), index, *space)
    ego = ego_motion(draws, settings.seconds if settings.stops else 0.0)
    actors = cast(draws, ego, settings.seconds, settings.classes)
    renderer = Renderer(draws, ego, actors)
    next(renderer.render(np.zeros(1)))
    camera = Camera(draws, Sensor(), renderer.frame, STEP_US)
    events, boxes = [np.empty(0, EVENT)], [np.empty(0, BOX)]
    for start_us in range(0, settings.duration_us, LABEL_PERIOD_US):
        end_us = start_us + LABEL_PERIOD_US
        times = np.arange(start_us + STEP_US, end_us + STEP_US, STEP_US) / 1e6
        events += [camera.expose(renderer.frame) for _ in renderer.render(times)]
        seen = _seen(renderer, ego, actors, end_us)
        boxes.append(_labels(ego, seen, end_us))
        if still is not None:
            still.append(_still_us(ego, seen, end_us))
        if frames is not None:
            frames.append(renderer.frame.copy())
        if masks is not None:
            masks.append(class_map(renderer, actors, end_us / 1e6))
    labels = np.concatenate(boxes)
    labels["track_id"] = np.arange(1, len(labels) + 1)
    return np.concatenate(events), labels


def _seen(renderer: Renderer, ego: Ego, actors: list[Actor], end_us: int) -> list[Actor]:
    """The actors to label: those one can see in the frame just rendered."""
    owned = np.bincount(renderer.owner.ravel() + 1, minlength=len(actors) + 1)[1:]
    t = np.array([end_us / 1e6])
    seen = []
    for number, actor in enumerate(actors):
        if actor.class_id is None or owned[number] < MIN_PIXELS:
            continue
        x1, y1, x2, y2 = actor.boxes(ego, t)[0]
        inside = (min(x2, WIDTH) - max(x1, 0.0)) * (min(y2, HEIGHT) - max(y1, 0.0))
        if (
            inside >= MIN_INSIDE * (x2 - x1) * (y2 - y1)
            and owned[number] >= MIN_UNCOVERED * renderer.covered[number]
            and actor.opacity(t)[0] >= MIN_OPACITY
        ):
            seen.append(actor)
    return seen


def _labels(ego: Ego, seen: list[Actor], end_us: int) -> np.ndarray:
    """BOX of actors at a time."""
    rows = []
    for actor in seen:
        x1, y1, x2, y2 = actor.boxes(ego, np.array([end_us / 1e6]))[0]
        rows.append((end_us - 1, x1, y1, x2 - x1, y2 - y1, actor.class_id, 1.0, 0))
    return np.array(rows, BOX)


def _still_us(ego: Ego, seen: list[Actor], end_us: int) -> np.ndarray:
    """For how long before `end_us` no side of each actor's box was STILL_PX away, int64 [n].

    In steps of STILL_STEP_US, at most since the recording began or the actor entered.
    """
    back_us = np.arange(0, end_us + 1, STILL_STEP_US)
    found = np.zeros(len(seen), np.int64)
    for row, actor in enumerate(seen):
        t = (end_us - back_us) / 1e6
        boxes = actor.boxes(ego, t[t >= actor.born])
        moved = np.abs(boxes - boxes[0]).max(axis=1) >= STILL_PX
        found[row] = back_us[int(np.argmax(moved)) - 1 if moved.any() else len(boxes) - 1]
    return found


@dataclass(frozen=True)
class Job:
    """One recording to make: simulate and write it."""

    out: Path
    settings: Settings
    split: str
    index: int
    frames: bool = False
    masks: bool = False

    @property
    def name(self) -> str:
        return f"synthetic_{self.index:04d}"

    @property
    def dat(self) -> Path:
        return self.out / self.split / f"{self.name}_td.dat"

    @property
    def boxes(self) -> Path:
        return self.out / self.split / f"{self.name}_bbox.npy"

    def is_done(self) -> bool:
        files = [self.dat, self.boxes]
        files += [still_path(self.boxes)] if self.settings.stops else []
        times_us = self.settings.label_times_us
        if self.frames:
            files += [picture_path(self.out, self.split, self.name, t_us) for t_us in times_us]
        if self.masks:
            folder = masks_folder(self.out, self.split, self.name)
            files += [mask_path(folder, t_us) for t_us in times_us]
        return all(path.exists() for path in files)

    def run(self) -> int:
        """Write its files, each renamed into place when whole; return the number of events."""
        frames: list[np.ndarray] | None = [] if self.frames else None
        masks: list[np.ndarray] | None = [] if self.masks else None
        still: list[np.ndarray] | None = [] if self.settings.stops else None
        events, boxes = simulate(self.settings, self.split, self.index, frames, masks, still)
        times_us = self.settings.label_times_us
        if frames is not None:
            write_pictures(self.out, self.split, self.name, frames, times_us)
        if masks is not None:
            write_masks(masks_folder(self.out, self.split, self.name), masks, times_us)
        write_dat(self.dat, events, HEIGHT, WIDTH)
        write_boxes(self.boxes, boxes)
        if still is not None:
            write_still(self.boxes, np.concatenate(still))
        return len(events)


def plan(
    out: Path | str,
    recordings: dict[str, int],
    settings: Settings,
    frames: bool = False,
    masks: bool = False,
) -> list[Job]:
    """Jobs for the recordings of each split that `out` does not hold yet.

    Creates `out`, the folders of its splits, its settings file and, for other than the default
    classes, a description of the data set; and of the classes of masks. Raises
    ValueError if `out` holds recordings made with other settings, or not made here.
    """
    out = Path(out)
    manifest, ours = out / SETTINGS_FILE, settings.stored()
    if manifest.exists():
        try:
            theirs = json.loads(manifest.read_text())
        except ValueError as error:
            raise ValueError(f"{manifest}: is not JSON, expected the settings {ours}") from error
        if theirs != ours:
            raise ValueError(f"{manifest}: recordings made with {theirs}, expected {ours}")
    elif any(out.glob(f"*/[!.]*{DAT_SUFFIX}")):
        raise ValueError(f"{out}: recordings without {SETTINGS_FILE}, expected an empty folder")
    for folder in (out, *(out / split for split, count in recordings.items() if count)):
        folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(manifest) as file:
        file.write((json.dumps(ours, indent=2) + "\n").encode())
    if settings.classes != CLASSES:
        with atomic_write(out / DATASET_FILE) as file:
            file.write(_description(settings).encode())
    if masks:
        write_classes(out, settings.classes)
    counts = recordings.items()
    jobs = [Job(out, settings, split, k, frames, masks) for split, n in counts for k in range(n)]
    return [job for job in jobs if not job.is_done()]


def _description(settings: Settings) -> str:
    """The data set in YAML: its name, its sensor, and its classes in the order of their ids."""
    described = {"name": "synthetic", "height": HEIGHT, "width": WIDTH}
    return yaml.safe_dump(
        {**described, "classes": list(settings.classes)},
        sort_keys=False,
        default_flow_style=None,
        width=1000,
    )


def run(jobs: Sequence[Job], workers: int) -> Iterator[int]:
    """Yield the number of events of each recording as it is done, `workers` at a time."""
    if workers == 1 or len(jobs) <= 1:
        yield from (job.run() for job in jobs)
        return
    simulate(Settings(seconds=0.25, seed=0), SPLITS[0], 0)  # compiles; workers load its cache
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn")) as pool:
        futures = [pool.submit(job.run) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
