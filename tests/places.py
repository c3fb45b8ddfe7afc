"""What the commands of the documents find: recordings and pictures of every kind, small ones."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models import build_model
from models.authors import tensor_names
from models.authors.spikeyolo import FROZEN

ROOT = Path(__file__).parents[1]
FORMATS = ROOT / "tests/golden/formats"


def furnish_data(place: Path) -> None:
    """For docs/data.md: own recordings, RVT's preprocessed ones, labels of every kind."""
    page = (ROOT / "docs/data.md").read_text()
    (spec,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (place / "mine.yaml").write_text(spec)
    shutil.copytree(place / "recordings", place / "MINE")
    for path in (place / "MINE/test").iterdir():
        path.rename(path.with_name(path.name.replace("r0", "NAME")))
    shutil.copytree(FORMATS / "rvt/gen4/out", place / "RVT")
    shutil.copy(FORMATS / "same/coco/rec.json", place / "labels.json")
    shutil.copytree(FORMATS / "same/yolo", place / "yolo")
    for kind in ("xml", "numpy"):
        shutil.copytree(FORMATS / f"same/pedro/{kind}", place / kind)


def furnish_pictures(place: Path) -> None:
    """For docs/coco.md: two pictures with labels of every kind, and a network of the authors'."""
    rng, names = np.random.default_rng(0), [f"class {k}" for k in range(80)]
    folders = ("val2017", "train2017", "JPEGImages", "pictures/train")
    others = ("annotations", "Annotations", "ImageSets/Main", "labels/train")
    for folder in (*folders, *others):
        (place / folder).mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": k + 1, "name": name} for k, name in enumerate(names)]
    for k in (1, 2):
        picture = Image.fromarray(rng.integers(0, 255, (48, 64, 3)).astype(np.uint8))
        for folder in folders:
            picture.save(place / folder / f"p{k}.png")
        row = {"image_id": k, "category_id": k, "iscrowd": 0, "area": 600, "id": k}
        content["annotations"].append({**row, "bbox": [10, 10, 30, 20]})
        image = {"id": k, "file_name": f"p{k}.png", "height": 48, "width": 64}
        content["images"].append(image)
        box = "<xmin>10</xmin><ymin>10</ymin><xmax>40</xmax><ymax>30</ymax>"
        xml = f"<annotation><object><name>cell</name><bndbox>{box}</bndbox></object></annotation>"
        (place / f"Annotations/p{k}.xml").write_text(xml)
        (place / f"labels/train/p{k}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (place / "ImageSets/Main/train.txt").write_text("p1\np2\n")
    (place / "labels/data.yaml").write_text("names: [cell]")
    for split in ("train", "val"):
        (place / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
    model = build_model("spikeyolo-p", variant="coco")
    theirs = {name: model.state_dict()[ours] for ours, name in tensor_names(model).items()}
    torch.save(theirs | FROZEN, place / "69M.pt")


def furnish_masks(place: Path) -> None:
    """For docs/segmentation.md: two pictures with masks a split, as ADE20K lies on disk."""
    rng = np.random.default_rng(0)
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (place / "ADE20K" / kind / split).mkdir(parents=True)
        for k in (1, 2):
            pixels = rng.integers(0, 255, (140, 180, 3)).astype(np.uint8)
            mask = (np.arange(180) // 60 + np.zeros((140, 1), int)).astype(np.uint8)
            Image.fromarray(pixels).save(place / f"ADE20K/images/{split}/p{k}.jpg")
            Image.fromarray(mask).save(place / f"ADE20K/annotations/{split}/p{k}.png")
