"""COCO's json and the pictures it names -> what there is to find in each picture."""

import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from gen1.spec import listed


@dataclass(frozen=True)
class Picture:
    """A picture and its labels, in px of it.

    classes: int [n], places in the categories; boxes: float64 [n, 4], corners x1 y1 x2 y2 inside
    the picture; labelled: as the json has them, to score by; crowd: bool [n]; areas: float64 [n],
    COCO's own, of the object and not of its box.
    """

    id: int
    path: Path
    hw: tuple[int, int]
    classes: np.ndarray
    boxes: np.ndarray
    labelled: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray


@dataclass(frozen=True)
class ImageSet:
    """Pictures in the order of the json; `category_ids` are its own numbers of the categories.

    left_out: how many boxes were dropped, by reason. labels_crc32: tells which labels these are;
    pictures taken beside recordings have that of the recordings' labels.
    """

    name: str
    categories: tuple[str, ...]
    category_ids: tuple[int, ...]
    pictures: tuple[Picture, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    labels_crc32: int = 0
    beside_recordings: bool = False

    def in_words(self) -> str:
        """How much there is, and what was left out."""
        boxes = sum(len(picture.boxes) for picture in self.pictures)
        dropped = ", ".join(f"{n} boxes {why}" for why, n in self.left_out.items())
        text = f"{self.name}: {len(self.pictures)} pictures, {boxes} boxes"
        return f"{text}; left out: {dropped}" if dropped else text


def read_coco(annotations: str | Path, images: str | Path) -> ImageSet:
    """The pictures of a COCO json that lie below `images`.

    A box beyond its picture, or without area, is dropped and counted, never its picture. Raises
    ValueError for a json that is none of COCO's, for pictures that are not there, for none at all
    and for a class that its categories do not have.
    """
    path, folder = Path(annotations), Path(images)
    try:
        written = path.read_bytes()
        content = json.loads(written)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        listed = {int(image["id"]): image for image in content["images"]}
        rows = content.get("annotations", [])
        places = {int(category["id"]): k for k, category in enumerate(categories)}
        of_image: dict[int, list[Any]] = {number: [] for number in listed}
        for row in rows:
            if int(row["category_id"]) not in places:
                found = f"annotation {row.get('id')} is of category {row['category_id']}"
                raise ValueError(f"{found}, expected one of {sorted(places)}")
            if int(row["image_id"]) not in of_image:
                found = f"annotation {row.get('id')} is of image {row['image_id']}"
                raise ValueError(f"{found}, expected one of `images`")
            of_image[int(row["image_id"])].append(row)
        files = {number: folder / str(image["file_name"]) for number, image in listed.items()}
        left_out: Counter[str] = Counter()
        pictures = tuple(
            picture_of(number, files[number], listed[number], of_image[number], places, left_out)
            for number in listed
        )
        recorded = content.get("info", {}).get("recordings_crc32")
        checksum = zlib.crc32(written) if recorded is None else int(recorded)
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(f"{error}".split()) or type(error).__name__
        expected = "expected COCO's images, categories and annotations"
        raise ValueError(f"{path}: cannot be understood ({reason}), {expected}") from None
    refuse_missing(path, folder, [*files.values()])
    names = tuple(str(category["name"]) for category in categories)
    identity = checksum, recorded is not None
    return ImageSet(path.stem, names, tuple(places), pictures, dict(left_out), *identity)


def picture_of(
    number: int,
    path: Path,
    image: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    places: Mapping[int, int],
    left_out: Counter[str],
) -> Picture:
    """A picture and the boxes in it that can be learnt or scored; the others are counted."""
    height, width = int(image["height"]), int(image["width"])
    kept = []
    for row in rows:
        x, y, w, h = map(float, row["bbox"])
        corners = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
        if not np.isfinite([x, y, w, h]).all():
            left_out["that are not finite"] += 1
        elif w <= 0 or h <= 0:
            left_out["without area"] += 1
        elif corners[0] >= corners[2] or corners[1] >= corners[3]:
            left_out["outside of their picture"] += 1
        else:
            area = float(row.get("area", w * h))
            k, crowd = places[int(row["category_id"])], bool(row.get("iscrowd"))
            kept.append((k, corners, (x, y, x + w, y + h), crowd, area))
    columns = [*zip(*kept, strict=True)] or [(), (), (), (), ()]
    return Picture(
        number,
        path,
        (height, width),
        np.array(columns[0], int),
        np.array(columns[1], float).reshape(-1, 4),
        np.array(columns[2], float).reshape(-1, 4),
        np.array(columns[3], bool),
        np.array(columns[4], float),
    )


def refuse_missing(annotations: Path, folder: Path, files: Sequence[Path]) -> None:
    """ValueError that names and counts the pictures that are not there."""
    if not files:
        raise ValueError(f"{annotations}: names no pictures, expected one at least")
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        found = f"lacks {len(missing)} of {len(files)} pictures of {annotations}"
        raise ValueError(f"{folder}: {found} ({listed(missing)}), expected all of them")


def read_picture(path: str | Path) -> np.ndarray:
    """uint8 [H, W, 3], RGB, turned as its camera says; ValueError for what is no picture.

    Grey, CMYK and palettes become RGB, an alpha channel is left out, 16 bits become the upper 8.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I"):
                levels = np.asarray(picture).astype(np.int64) >> 8
                picture = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: is no readable picture ({reason})") from None
