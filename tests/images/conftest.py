"""A small set of pictures: coloured rectangles on noise, with a COCO json."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60)}
SIZES = [(90, 120), (120, 90), (64, 64), (100, 130)]


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path]:
    """Folder and json of four pictures, each with two boxes; category ids 3 and 7."""
    rng, folder = np.random.default_rng(0), tmp_path / "pictures"
    folder.mkdir()
    content: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": []}
    for number, name in ((7, "green"), (3, "red")):
        content["categories"].append({"id": number, "name": name})
    for k, (height, width) in enumerate(SIZES):
        pixels = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
        for category, colour in ((3, COLOURS["red"]), (7, COLOURS["green"])):
            x, y = rng.integers(0, width - 40), rng.integers(0, height - 30)
            pixels[y : y + 25, x : x + 35] = colour
            row: dict[str, Any] = {
                "image_id": 10 + k,
                "category_id": category,
                "iscrowd": 0,
                "area": 875,
            }
            row |= {"bbox": [float(x), float(y), 35.0, 25.0]}
            content["annotations"].append({**row, "id": len(content["annotations"])})
        Image.fromarray(pixels).save(folder / f"p{k}.png")
        image = {"id": 10 + k, "file_name": f"p{k}.png", "height": height, "width": width}
        content["images"].append(image)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    return folder, path
