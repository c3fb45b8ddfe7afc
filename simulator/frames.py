"""The same streets as a frame camera sees them: PNG pictures at the label times, COCO's json."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gen1.atomic import atomic_write
from gen1.labels import checksum, read_boxes
from gen1.spec import BOX_SUFFIX, by_name
from simulator.canvas import LOG_UNIT
from simulator.spec import HEIGHT, WIDTH

FOLDER, GAMMA = "frames", 2.2
#: Luminance, as a multiple of the asphalt's, that is white.
WHITE = 6.0


def as_picture(levels: np.ndarray) -> np.ndarray:
    """Log-luminance times LOG_UNIT, int32 [H, W] -> grey uint8 [H, W]."""
    light = np.exp(levels / LOG_UNIT) / WHITE
    return (255 * light.clip(0, 1) ** (1 / GAMMA)).round().astype(np.uint8)


def picture_path(out: Path, split: str, name: str, t_us: int) -> Path:
    return out / FOLDER / split / f"{name}_{t_us:012d}.png"


def write_pictures(
    out: Path, split: str, name: str, frames: Sequence[np.ndarray], times_us: Sequence[int]
) -> None:
    """A picture per label time, each renamed into place when whole."""
    (out / FOLDER / split).mkdir(parents=True, exist_ok=True)
    for levels, t_us in zip(frames, times_us, strict=True):
        with atomic_write(picture_path(out, split, name, t_us)) as file:
            Image.fromarray(as_picture(levels)).save(file, "PNG")


def write_instances(out: Path, split: str, classes: Sequence[str], times_us: Sequence[int]) -> Path:
    """OUT/frames/{split}.json of the labels beside the recordings; pictures without any, too."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    recordings = {k: read_boxes(path) for k, path in by_name(out / split, BOX_SUFFIX).items()}
    for name, boxes in recordings.items():
        for t_us in times_us:
            number = len(images) + 1
            listed = {"id": number, "height": HEIGHT, "width": WIDTH}
            images.append({**listed, "file_name": picture_path(out, split, name, t_us).name})
            for box in boxes[boxes["t"] == t_us]:
                x, y, w, h = (float(box[side]) for side in "xywh")
                row: dict[str, Any] = {"image_id": number, "category_id": int(box["class_id"]) + 1}
                row |= {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
                annotations.append({**row, "id": len(annotations) + 1})
    categories = [{"id": k, "name": name} for k, name in enumerate(classes, 1)]
    info = {"recordings_crc32": checksum(recordings)}  # by it an evaluation is known as of these
    content = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    path = out / FOLDER / f"{split}.json"
    with atomic_write(path) as file:
        file.write(json.dumps(content).encode())
    return path
