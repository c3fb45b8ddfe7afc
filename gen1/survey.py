"""Look over a download: what is there, what is missing, what looks wrong."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gen1.dat import DatReader
from gen1.labels import read_boxes, refuse_foreign_times
from gen1.opening import open_recording, recordings_in
from gen1.spec import BOX_SUFFIX, GEN1, SPLITS, DatasetSpec, by_name, counted

#: Labels that end so long after all events of a recording are not its own.
NEAR_US = 250_000
#: A box that stays to the last digit for longer was not looked at again.
FROZEN_US = 2_000_000


@dataclass
class Survey:
    """What a data set holds. `problems`: one sentence per suspicious file or split."""

    spec: DatasetSpec = GEN1
    recordings: Counter[str] = field(default_factory=Counter)
    events: list[int] = field(default_factory=list)
    durations_s: list[float] = field(default_factory=list)
    classes: Counter[int] = field(default_factory=Counter)
    diagonals_px: list[np.ndarray] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def summary(self) -> list[str]:
        """Totals in lines for people."""
        published = {split: f" of {n}" for split, n in self.spec.published.items()}
        lines = [
            f"{split}: {self.recordings[split]}{published.get(split, '')} recordings"
            for split in SPLITS
        ]
        names = self.spec.names()
        counts = ", ".join(f"{n} {names.get(i, i)}" for i, n in sorted(self.classes.items()))
        hours = sum(self.durations_s) / 3600
        boxes = counted(self.classes.total(), "boxes")
        total = f"{hours:.2f} hours, {counted(sum(self.events), 'events')}, {boxes}"
        return [*lines, f"{total} ({counts})" if counts else total]

    def name(self, path: Path, counts: dict[str, int], suspicions: dict[str, bool]) -> None:
        """Add what is not zero and what is true of a file to its problems."""
        texts = [counted(int(n), what) for what, n in counts.items() if n]
        texts += [text for text, is_so in suspicions.items() if is_so]
        self.problems += [f"{path}: {text}" for text in texts]


def survey(root: str | Path, deep: bool = False, spec: DatasetSpec = GEN1) -> Survey:
    """Survey {train,val,test}/ below root; deep reads every event, otherwise the last only.

    `spec`: what the recordings should be. Raises ValueError if root holds no split folder.
    """
    root = Path(root)
    folders = [root / split for split in SPLITS if (root / split).is_dir()]
    if not folders:
        raise ValueError(f"{root}: has no folder {', '.join(SPLITS)}, expected a data set")
    found = Survey(spec)
    for folder in folders:
        dats, boxes = recordings_in(folder), by_name(folder, BOX_SUFFIX)
        found.recordings[folder.name] = len(dats.keys() & boxes)
        found.problems += [f"{dats[name]}: no labels" for name in dats if name not in boxes]
        found.problems += [f"{boxes[name]}: no recording" for name in boxes if name not in dats]
        spans_us = {name: _add_recording(found, path, deep) for name, path in dats.items()}
        for name, path in boxes.items():
            _add_boxes(found, path, spans_us.get(name))
    for split, expected in spec.published.items():
        if found.recordings[split] != expected:
            counts = f"{found.recordings[split]} recordings with labels, published are {expected}"
            found.problems.append(f"{root / split}: {counts}")
    return found


def draw(found: Survey, path: str | Path) -> None:
    """Write a picture of three histograms: events, durations and sizes of boxes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.5), layout="constrained")
    panels = (
        ("million events in a recording", np.array(found.events) / 1e6),
        ("duration of a recording, s", np.array(found.durations_s)),
        ("diagonal of a box, px", np.concatenate([*found.diagonals_px, np.zeros(0)])),
    )
    for axes, (label, values) in zip(figure.subplots(1, 3), panels, strict=True):
        axes.hist(values, bins=40)
        axes.set_xlabel(label)
        axes.set_ylabel("count")
    figure.savefig(path, dpi=120)


def _add_recording(found: Survey, path: Path, deep: bool) -> tuple[int, int] | None:
    """Add what a recording holds; returns the times of its first and last event, if any."""
    try:
        with open_recording(path) as reader:
            duration_us = reader.duration_us if deep else _seen_duration_us(reader)
            return _add_reader(found, path, reader, duration_us, deep)
    except ValueError as error:
        found.problems.append(str(error))
        return None


def _add_reader(
    found: Survey, path: Path, reader: DatReader, duration_us: int, deep: bool
) -> tuple[int, int] | None:
    found.events.append(reader.n_events)
    found.durations_s.append(duration_us * 1e-6)
    spec = found.spec
    size = (reader.height or spec.height, reader.width or spec.width)
    counts = {"bytes of a truncated last record": reader.trailing_bytes}
    if deep:
        counts["events that came after later ones"] = reader.order.moved
        counts["events at impossible times"] = reader.order.left_out
        counts["events out of frame"] = reader.order.out_of_frame or 0
        reader.release()
    seconds = found.durations_s[-1]
    is_odd = reader.n_events > 0 and spec.duration_s > 0 and abs(seconds - spec.duration_s) > 1
    suspicions = {
        "no events": reader.n_events == 0,
        f"sensor of {size[0]}x{size[1]} px": size != spec.sensor_hw,
        f"{seconds:.1f} s long, expected {spec.duration_s:.0f}": is_odd,
    }
    found.name(path, counts, suspicions)
    if not reader.n_events:
        return None
    first_us = reader.order.first_us if deep else reader.origin_us + int(reader.records[0, 0])
    return first_us, first_us + duration_us - 1


def _seen_duration_us(reader: DatReader) -> int:
    """duration_us by the first and the last record alone, whatever lies between."""
    first_us, last_us = (int(reader.records[i, 0]) for i in (0, -1)) if reader.n_events else (0, -1)
    return (last_us + 1 - first_us) % (1 << 32)


def _add_boxes(found: Survey, path: Path, span_us: tuple[int, int] | None) -> None:
    try:
        boxes = read_boxes(path)
    except ValueError as error:
        found.problems.append(str(error))
        return
    found.classes.update(boxes["class_id"].tolist())
    found.diagonals_px.append(np.hypot(boxes["w"], boxes["h"]))
    try:
        found.spec.classify(boxes, str(path))
    except ValueError as error:
        known = [*found.spec.names(), *found.spec.ignored_ids]
        unknown = int(np.sum(~np.isin(boxes["class_id"], known)))
        found.problems.append(f"{error} ({counted(unknown, 'boxes')} of unknown classes)")
    if span_us:
        try:
            refuse_foreign_times(boxes, str(path), *span_us, NEAR_US)
        except ValueError as error:
            found.problems.append(str(error))
    least_px = np.minimum(boxes["w"], boxes["h"])
    counts = {
        "boxes with a side of 0 px": np.sum(least_px == 0),
        "boxes with a negative side": np.sum(least_px < 0),
        "boxes at a negative time": np.sum(boxes["t"] < 0),
        f"boxes frozen for more than {FROZEN_US / 1e6:g} s": _frozen(boxes),
    }
    are_late = bool(np.any(np.diff(boxes["t"]) < 0))
    found.name(path, counts, {"no boxes": not len(boxes), "times are not ascending": are_late})


def _frozen(boxes: np.ndarray) -> int:
    """How many boxes are the same at the same place, time after time, for more than FROZEN_US."""
    columns = [boxes[name] for name in ("class_id", *"xywh")]
    order = np.lexsort([boxes["t"], *columns])
    t_us = boxes["t"][order]
    same = np.all([np.diff(column[order]) == 0 for column in columns], axis=0)
    starts = np.flatnonzero(~np.r_[False, same & (np.diff(t_us) <= FROZEN_US)])[: len(boxes)]
    counts = np.diff(np.r_[starts, len(boxes)])
    lasts_us = t_us[starts + counts - 1] - t_us[starts]
    return int(counts[lasts_us > FROZEN_US].sum())
