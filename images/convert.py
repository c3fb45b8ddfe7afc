"""`python -m images.convert voc|yolo LABELS IMAGES OUT.json`: labels of pictures -> COCO's json.

Boxes without area are kept out of the json and counted; classes are numbered by their names, or
in the order of YOLO's data.yaml.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image

from gen1 import command
from gen1.atomic import make_way, write_json
from gen1.labels.annotations import XYWH, voc_boxes, yolo_boxes, yolo_names

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


class Labelled(NamedTuple):
    """One object: its class; corner and sides in px, top left first."""

    label: str
    xywh: XYWH


def convert(
    kind: Literal["voc", "yolo"],
    labels: str | Path,
    images: str | Path,
    output: str | Path,
    names: str | Path | None = None,
) -> str:
    """Write one json of all pictures; returns what it holds, in a sentence.

    Args:
        kind: voc: a folder of .xml; yolo: a folder of .txt, names in a data.yaml in or above it.
        labels: That folder.
        images: Folder of the pictures.
        output: File to write, instances.json.
        names: Text file with the name of a picture, without its ending, per line: those alone.

    Raises ValueError for labels that cannot be understood and for pictures that are not there.
    """
    labels, images, output = Path(labels), Path(images), Path(output)
    pictures = listed(images, Path(names) if names else None)
    read = {"voc": voc, "yolo": yolo}[kind]
    found = {path: [*read(labels, path)] for path in pictures}
    known = [*yolo_names(labels).values()] if kind == "yolo" else []
    categories = known or sorted({box.label for boxes in found.values() for box in boxes})
    rows: list[dict[str, Any]] = []
    left_out = Counter[str]()
    for number, (path, boxes) in enumerate(found.items(), 1):
        for label, (x, y, w, h) in boxes:
            if w <= 0 or h <= 0:
                left_out[path.name] += 1
                continue
            row = {
                "id": len(rows) + 1,
                "image_id": number,
                "category_id": categories.index(label) + 1,
            }
            rows.append({**row, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0})
    make_way(output)
    content = {
        "images": [described(number, path) for number, path in enumerate(found, 1)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(categories, 1)],
        "annotations": rows,
    }
    write_json(output, content)
    text = f"{output}: {len(found)} pictures, {len(rows)} boxes of {', '.join(categories)}"
    return f"{text}; left out: {left_out.total()} without area" if left_out else text


def listed(images: Path, names: Path | None) -> list[Path]:
    """The pictures of a folder, those of a list alone, by name; ValueError for none."""
    by_stem = {p.stem: p for p in sorted(images.glob("*")) if p.suffix.lower() in ENDINGS}
    if names is not None:
        if not names.is_file():
            raise ValueError(f"{names}: no such file, expected a list of names of pictures")
        wanted = names.read_text().split()
        if missing := [name for name in wanted if name not in by_stem]:
            found = f"lacks {len(missing)} of {len(wanted)} pictures of {names} ({missing[0]}, ...)"
            raise ValueError(f"{images}: {found}, expected all of them")
        by_stem = {name: by_stem[name] for name in wanted}
    if not by_stem:
        raise ValueError(f"{images}: holds no pictures, expected {', '.join(ENDINGS)}")
    return [*by_stem.values()]


def described(number: int, path: Path) -> dict[str, Any]:
    """A picture as COCO lists it."""
    height, width = size_of(path)
    return {"id": number, "file_name": path.name, "height": height, "width": width}


def size_of(path: Path) -> tuple[int, int]:
    """Height and width in px, turned as its camera says; ValueError for what is no picture."""
    try:
        with Image.open(path) as file:
            turned = file.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return file.size if turned else file.size[::-1]
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: is no readable picture ({reason})") from None


def voc(labels: Path, picture: Path) -> Iterator[Labelled]:
    """Objects of a picture's .xml; none without one."""
    path = labels / f"{picture.stem}.xml"
    if path.is_file():
        yield from (Labelled(*found) for found in voc_boxes(path))


def yolo(labels: Path, picture: Path) -> Iterator[Labelled]:
    """Objects of a picture's .txt; none without one. ValueError where no data.yaml names them."""
    names, path = yolo_names(labels), labels / f"{picture.stem}.txt"
    if not names:
        raise ValueError(f"{labels}: has no data.yaml in or above it, expected one with names")
    if path.is_file():
        for label, xywh in yolo_boxes(path, names, *size_of(picture)):
            yield Labelled(names[label], xywh)


main = command.entry("python -m images.convert", __doc__, convert)
enter = command.door(main)
if __name__ == "__main__":
    enter()
