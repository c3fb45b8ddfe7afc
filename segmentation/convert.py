"""`python -m segmentation.convert dsec|ddd17 SRC OUT`: DSEC-Semantic, DDD17-Seg -> our layout.

OUT/{train,val,test}/NAME_td.dat with NAME_masks/TIME.png, masks.yaml and dataset.yaml. Masks get
the rows that nobody labelled, as ignored; events and masks of a recording keep one clock.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from PIL import Image

from gen1 import command
from gen1.atomic import atomic_write, make_writable
from gen1.convert import write_stream
from gen1.masks import MASKS_FILE, MASKS_SUFFIX, mask_files, mask_path
from gen1.spec import DAT_SUFFIX, counted
from segmentation import layouts
from segmentation.masks import padded_rows, read_mask
from segmentation.spec import MASKS, MaskSpec, write_mask_spec

DATASET_FILE = "dataset.yaml"


def convert(
    kind: Literal["dsec", "ddd17"],
    source: str | Path,
    output: str | Path,
    classes: int = 11,
    rectify: bool = True,
    skip: int = 6,
    every: int = 2,
) -> Iterator[str]:
    """Write every recording with its masks; yields what was done in a sentence each.

    Args:
        kind: dsec: sequences with events/left/events.h5 and 11classes/; ddd17: folders with
            events.dat.t, events.dat.xyp, index/ and segmentation_masks/.
        source: Folder of the sequences, in train/, val/, test/ or of the published names.
        output: Folder to fill.
        classes: 11 or 19, of DSEC.
        rectify: Move DSEC's events to where its masks are, by rectify_map.h5.
        skip: Masks at the start of a sequence of DSEC that are left out, as published.
        every: Of the others each so many-th is taken, as published.

    Raises ValueError for what is no such set, and for masks of another size or other numbers.
    """
    source, output = Path(source), Path(output)
    if not source.is_dir():
        raise ValueError(f"{source}: no such folder, expected sequences of {kind}")
    if kind == "dsec" and (classes not in {11, 19} or skip < 0 or every < 1):
        found = f"classes {classes}, skip {skip} and every {every}"
        raise ValueError(f"{found} were given, expected 11 or 19, 0 or more, 1 or more")
    spec = MASKS[f"dsec-{classes}" if kind == "dsec" else "ddd17"]
    if kind == "dsec":
        sequences = layouts.dsec(source, classes, rectify, skip, every)
        hw, labelled = layouts.DSEC_HW, layouts.DSEC_LABELLED_ROWS
    else:
        sequences = layouts.ddd17(source)
        hw, labelled = layouts.DDD17_HW, layouts.DDD17_LABELLED_ROWS
    for sequence in sequences:
        yield written(sequence, output, spec, hw, labelled)
    write_mask_spec(output / MASKS_FILE, spec)
    described = {"name": spec.name, "height": hw[0], "width": hw[1], "classes": [*spec.classes]}
    with atomic_write(output / DATASET_FILE) as file:
        file.write(yaml.safe_dump(described, sort_keys=False, width=1000).encode())
    yield f"next: python -m preprocessing --input {output} --output CACHE --keep masks"
    yield f"      --dataset {output / DATASET_FILE} --window-ms 50"


def written(
    sequence: layouts.Labelled, output: Path, spec: MaskSpec, hw: tuple[int, int], labelled: int
) -> str:
    """Write one recording and its masks; what they are, in a sentence."""
    folder = output / sequence.split
    masks_folder = folder / f"{sequence.name}{MASKS_SUFFIX}"
    make_writable(masks_folder)
    dat = folder / f"{sequence.name}{DAT_SUFFIX}"
    done, origin_us = write_stream(sequence.source, sequence.events, dat, *hw)
    times_us = {t_us - origin_us for t_us in sequence.masks}
    if stale := [
        path.name for t_us, path in mask_files(masks_folder).items() if t_us not in times_us
    ]:
        found = f"holds {counted(len(stale), 'masks')} of another conversion ({stale[0]})"
        raise ValueError(f"{masks_folder}: {found}, expected an empty folder")
    shares = np.zeros(len(spec.classes), np.int64)
    for t_us, path in sequence.masks.items():
        if t_us < origin_us:
            found = f"is of {t_us} us, before the first event of {sequence.source}"
            raise ValueError(f"{path}: {found}, expected times of one clock")
        mask = padded_rows(read_mask(path, spec, (labelled, hw[1])), hw[0])
        shares += np.bincount(mask[mask < len(shares)], minlength=len(shares))
        with atomic_write(mask_path(masks_folder, t_us - origin_us)) as file:
            Image.fromarray(mask).save(file, "PNG")
    total = max(1, int(shares.sum()))
    seen = ", ".join(
        f"{name} {share / total:.1%}" for name, share in zip(spec.classes, shares, strict=True)
    )
    counts = f"{counted(done.n_events, 'events')}, {counted(len(sequence.masks), 'masks')}"
    notes = "".join(f"; {note}" for note in done.notes)
    return f"{dat}: {counts}; {seen}{notes}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = command.command_line("python -m segmentation.convert", __doc__, convert)
    words = sys.argv[1:] if argv is None else list(argv)

    def tell(**given: object) -> None:
        for line in convert(**given):  # type: ignore[arg-type]
            print(line, flush=True)

    return command.run(parser, tell, words)


enter = command.door(main)
if __name__ == "__main__":
    enter()
