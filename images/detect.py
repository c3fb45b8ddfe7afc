"""`python -m images.detect PICTURE|DIR|VIDEO`: boxes as COCO's json, and pictures with them."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image, ImageDraw
from tqdm import tqdm

from evaluation.pictures import class_colour
from evaluation.video import write_video
from gen1 import command
from gen1.atomic import make_writable, write_json
from images.batches import OnCanvas, collate
from images.coco import read_picture
from images.convert import ENDINGS
from images.evaluate import load_detector
from images.geometry import Placing
from models.decode import DetectConfig, non_max_suppression
from models.detector import DetectorNetwork
from models.device import pick_device

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
PLAIN = np.zeros(0, int), np.zeros((0, 4))


def detect(
    source: str | Path,
    checkpoint: str | Path,
    output: str | Path,
    side: int = 640,
    score: float = 0.25,
    device: str = "auto",
) -> None:
    """Write OUTPUT/detections.json and, with boxes, every picture or the video.

    Args:
        source: A picture, a folder of them, or a video.
        checkpoint: Checkpoint of ours, a run directory, or the authors' published .pt.
        output: Directory to write to.
        side: Longer side of a picture for the network, in px.
        score: Least score of a box.
        device: "auto", "cpu" or "cuda".
    """
    source, output = Path(source), Path(output)
    model, loaded = load_detector(Path(checkpoint))
    names = loaded.meta.get("images", {}).get("categories")
    names = names or [f"class {k}" for k in range(loaded.config.num_classes)]
    make_writable(output)
    model.to(pick_device(device))
    finder = Finder(model, side, DetectConfig(score_threshold=score))
    rows: list[dict[str, Any]] = []

    def shown(name: str, picture: np.ndarray) -> np.ndarray:
        found = finder(picture)
        rows.extend(
            {
                "image": name,
                "category": names[int(k)],
                "bbox": [round(float(v), 2) for v in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(float(s), 4),
            }
            for x1, y1, x2, y2, s, k in found
        )
        return painted(picture, found, names)

    if source.suffix.lower() in VIDEOS:
        fps, frames = read_video(source)
        pictures = (shown(f"{k}", frame) for k, frame in enumerate(frames))
        write_video(output / f"{source.stem}.mp4", pictures, fps)
    else:
        for path in tqdm(listed(source), "detecting", unit="picture", leave=False, disable=None):
            picture = shown(path.name, read_picture(path))
            Image.fromarray(picture).save(output / f"{path.stem}.png")
    write_json(output / "detections.json", rows)
    print(f"{output}: {len(rows)} boxes of score >= {score}")


class Finder:
    """Boxes in one picture: uint8 [H, W, 3] -> rows x1 y1 x2 y2 score class, px of the picture."""

    def __init__(self, model: DetectorNetwork, side: int, config: DetectConfig) -> None:
        self.model, self.side, self.config = model, side, config

    @torch.no_grad()
    def __call__(self, picture: np.ndarray) -> np.ndarray:
        canvas = (self.side, self.side)
        placing = Placing.letterbox(picture.shape[:2], canvas, least=True)
        sample = OnCanvas(placing.paint(picture), *PLAIN, 0, placing)
        x = collate([sample], self.model.config.time_steps).network_input()
        x = x.to(next(self.model.parameters()).device)
        boxes, scores = self.model.decode([m.float() for m in self.model(x)])
        (rows,) = non_max_suppression(boxes, scores, **asdict(self.config))
        table = rows.cpu().numpy().astype(np.float64)
        table[:, :4] = placing.boxes_out(table[:, :4])
        return table


def painted(picture: np.ndarray, rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The picture with boxes, classes and scores; sides are made even, for videos."""
    height, width = (length - length % 2 for length in picture.shape[:2])
    image = Image.fromarray(picture[:height, :width])
    draw = ImageDraw.Draw(image)
    for x1, y1, x2, y2, score, k in rows[::-1]:
        colour = class_colour(int(k))
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=2)
        draw.text((x1 + 3, max(y1 - 12, 0)), f"{names[int(k)]} {score:.2f}", colour)
    return np.asarray(image)


def listed(source: Path) -> list[Path]:
    """The pictures that are meant; ValueError for none."""
    if source.is_file():
        return [source]
    found = [p for p in sorted(source.glob("*")) if p.suffix.lower() in ENDINGS]
    if not found:
        what = "holds no pictures" if source.is_dir() else "no such file"
        raise ValueError(f"{source}: {what}, expected a picture, a folder of them or a video")
    return found


def read_video(path: Path) -> tuple[float, Iterator[np.ndarray]]:
    """Pictures per second, and the pictures, uint8 [H, W, 3]; ValueError for what is no video."""
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise ValueError(f"{path}: is no readable video")

    def frames() -> Iterator[np.ndarray]:
        try:
            while True:
                there, frame = capture.read()
                if not there:
                    return
                yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        finally:
            capture.release()

    return float(capture.get(cv2.CAP_PROP_FPS)) or 25.0, frames()


main = command.entry("python -m images.detect", __doc__, detect)
enter = command.door(main)
if __name__ == "__main__":
    enter()
