"""How many augmented pictures a second do two cores prepare?

`python benchmarks/images.py` writes JPEG pictures of 640x480 px (some 120 kB each, as COCO's) and
prepares training samples of 640 px by the recipe of `configs/coco_authors.yaml` (mosaic of four,
warp, colour, flip) in two worker processes: ours from files and from memory, the same steps
written plainly in OpenCV from files, and with Pillow alone. Samples/s, the best of three, all in
one run. Writes images_cpu_<date>.json and .md under benchmarks/results/.
"""

import json
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(sys.path.pop(0))

import cv2
import numpy as np
import torch
from common import Row, main, table
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from images.batches import collate
from images.coco import read_coco
from images.training import ImageTrainConfig, ToTrain
from models import resolve

REPEATS, WORKERS, BATCH, SIDE, GREY = 3, 2, 16, 640, 114
GAINS = np.array([0.015, 0.7, 0.4])


def write_pictures(folder: Path, count: int) -> None:
    """Smooth colours with grain, as JPEG, and a json of four boxes a picture."""
    rng = np.random.default_rng(0)
    listed = [{"id": k, "file_name": f"{k}.jpg", "height": 480, "width": 640} for k in range(count)]
    for image in listed:
        coarse = rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)
        smooth = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
        pixels = (smooth + rng.normal(0, 9, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / image["file_name"], quality=90)
    boxes = [
        {"id": k, "image_id": k % count, "category_id": 1, "bbox": [50 + k % 300, 80, 120, 90]}
        for k in range(4 * count)
    ]
    content = {"images": listed, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "boxes.json").write_text(json.dumps(content))


class Plain(Dataset[Any]):
    """Pictures alone, without boxes: the least that the recipe asks of a library."""

    def __init__(self, files: list[Path], sample: Callable[..., np.ndarray], draws: int) -> None:
        self.files, self.sample, self.draws = files, sample, draws

    def __len__(self) -> int:
        return self.draws

    def __getitem__(self, index: int) -> np.ndarray:
        rng = np.random.default_rng(index)
        chosen = [self.files[k] for k in rng.integers(len(self.files), size=4)]
        centre = rng.integers(SIDE // 2, 3 * SIDE // 2, 2).tolist()
        return self.sample(chosen, centre, rng)


def corner(number: int, size: tuple[int, int], centre: list[int]) -> tuple[int, int]:
    """Left and top of one of the four pictures around the centre (x, y)."""
    left = centre[0] - size[0] if number % 2 == 0 else centre[0]
    return left, centre[1] - size[1] if number < 2 else centre[1]


def opencv(files: list[Path], centre: list[int], rng: np.random.Generator) -> np.ndarray:
    canvas = np.full((2 * SIDE, 2 * SIDE, 3), GREY, np.uint8)
    for number, file in enumerate(files):
        pixels = cv2.imread(str(file))
        height, width = pixels.shape[:2]
        left, top = corner(number, (width, height), centre)
        y1, x1, y2, x2 = max(top, 0), max(left, 0), min(top + height, 1280), min(left + width, 1280)
        canvas[y1:y2, x1:x2] = pixels[y1 - top : y2 - top, x1 - left : x2 - left]
    scale = rng.uniform(0.5, 1.5)
    shift = SIDE * rng.uniform(0.4, 0.6, 2) - scale * SIDE
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)
    picture = cv2.warpAffine(canvas, matrix, (SIDE, SIDE), borderValue=(GREY,) * 3)
    hue, saturation, value = cv2.split(cv2.cvtColor(picture, cv2.COLOR_BGR2HSV))
    gains = 1 + rng.uniform(-1, 1, 3) * GAINS
    hue = cv2.LUT(hue, (np.arange(256) * gains[0] % 180).astype(np.uint8))
    saturation = cv2.LUT(saturation, (np.arange(256) * gains[1]).clip(0, 255).astype(np.uint8))
    value = cv2.LUT(value, (np.arange(256) * gains[2]).clip(0, 255).astype(np.uint8))
    picture = cv2.cvtColor(cv2.merge([hue, saturation, value]), cv2.COLOR_HSV2BGR)
    if rng.random() < 0.5:
        picture = np.fliplr(picture)
    return np.ascontiguousarray(picture.transpose(2, 0, 1)[::-1])


def pillow(files: list[Path], centre: list[int], rng: np.random.Generator) -> np.ndarray:
    canvas = Image.new("RGB", (2 * SIDE, 2 * SIDE), (GREY,) * 3)
    for number, file in enumerate(files):
        with Image.open(file) as pixels:
            canvas.paste(pixels, corner(number, pixels.size, centre))
    scale = rng.uniform(0.5, 1.5)
    shift = SIDE * rng.uniform(0.4, 0.6, 2) - scale * SIDE
    back = (1 / scale, 0, -shift[0] / scale, 0, 1 / scale, -shift[1] / scale)
    how = {"resample": Image.Resampling.BILINEAR, "fillcolor": (GREY,) * 3}
    picture = canvas.transform((SIDE, SIDE), Image.Transform.AFFINE, back, **how)
    gains = 1 + rng.uniform(-1, 1, 3) * GAINS
    levels = np.arange(256)
    curves = [levels * gains[0] % 256, *((levels * gain).clip(0, 255) for gain in gains[1:])]
    curve = np.concatenate(curves).astype(np.uint8).tolist()
    picture = picture.convert("HSV").point(curve).convert("RGB")
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def stacked(pictures: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures))


def samples_per_s(dataset: Dataset[Any], stack: Callable[..., Any], count: int) -> float:
    """Of two workers, after their first batch, in batches of 16."""
    indices = [[(first + k) % count for k in range(BATCH)] for first in range(0, count, BATCH)]
    batches = iter(
        DataLoader(dataset, batch_sampler=indices, num_workers=WORKERS, collate_fn=stack)
    )
    next(batches)
    started, found = time.perf_counter(), sum(1 for _ in batches)
    return BATCH * found / (time.perf_counter() - started)


def measure(given: Namespace) -> tuple[dict[str, Any], str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, given.pictures)
        rows = variants(folder, given.pictures)
    question = "How many augmented pictures a second do two cores prepare?"
    about = f"{given.pictures} pictures of 640x480 px, samples of {SIDE} px, {WORKERS} workers."
    return {"question": question, "loaders": rows}, f"{about}\n\n{table(rows)}"


def variants(folder: Path, count: int) -> list[Row]:
    given = {"images": folder, "annotations": folder / "boxes.json", "output": folder / "run"}
    given |= {"val_images": folder, "val_annotations": folder / "boxes.json"}
    model = resolve("spikeyolo-p", variant="coco", num_classes=1)
    images = read_coco(folder / "boxes.json", folder)
    files = sorted(folder.glob("*.jpg"))

    def ours(in_memory: bool) -> ToTrain:
        config = ImageTrainConfig(**given, model=model, in_memory=in_memory, epochs=300)
        return ToTrain(images, config)

    loaders: dict[str, tuple[Dataset[Any], Callable[..., Any]]] = {
        "ours, in memory": (ours(True), partial(collate, time_steps=1)),
        "ours, from files": (ours(False), partial(collate, time_steps=1)),
        "plain OpenCV, from files, no boxes": (Plain(files, opencv, count), stacked),
        "Pillow alone, from files, no boxes": (Plain(files, pillow, count), stacked),
    }
    best = dict.fromkeys(loaders, 0.0)
    for _ in range(REPEATS):
        for kind, (dataset, stack) in loaders.items():
            best[kind] = max(best[kind], samples_per_s(dataset, stack, count))
    plain = best["plain OpenCV, from files, no boxes"]
    return [
        {"loader": kind, "samples/s": round(found, 1), "of plain OpenCV": round(found / plain, 2)}
        for kind, found in best.items()
    ]


if __name__ == "__main__":
    cv2.setNumThreads(1)
    main(__doc__ or "", measure, {"--pictures": {"type": int, "default": 480, "help": "how many"}})
