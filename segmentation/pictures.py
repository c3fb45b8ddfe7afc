"""Sets of pictures with masks as they are on disk: ADE20K, Cityscapes, VOC, folders, ours."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from gen1.masks import MASKS_FILE, MASKS_SUFFIX, mask_files, mask_path, masks_in
from gen1.spec import counted, visible
from segmentation.framing import Size
from segmentation.masks import read_mask
from segmentation.spec import MASKS, MaskSpec, find_mask_spec

#: folder: images/{split}/* and masks/{split}/*.png of the same stem; simulator: what
#: `python -m simulator --frames --masks` writes.
Layout = Literal["ade20k", "cityscapes", "voc", "folder", "simulator"]
#: Layouts that say which classes they are of.
PUBLISHED = ("ade20k", "cityscapes", "voc")
ENDINGS = (".jpg", ".jpeg", ".png")
CITY_PICTURE, CITY_MASK = "_leftImg8bit.png", "_gtFine_labelIds.png"
#: ADE20K's names of the splits.
ADE20K_SPLITS = {"train": "training", "val": "validation"}
Paths = tuple[Path, Path]
#: Masks that are looked at before all else.
READ_AT_ONCE = 64


@dataclass(frozen=True)
class PictureSet:
    """Pictures and the masks of each, sorted by name."""

    name: str
    spec: MaskSpec
    pairs: tuple[Paths, ...]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture uint8 [H, W, 3], RGB, and classes uint8 [H, W].

        Raises ValueError for what is no picture or mask, and for a mask of another size.
        """
        path, mask_of = self.pairs[index]
        picture = read_colours(path)
        return picture, read_mask(mask_of, self.spec, picture.shape[:2])

    def size(self, index: int) -> Size:
        """Height and width of a picture in px, by its header."""
        with opened(self.pairs[index][0]) as file:
            return file.height, file.width

    def mask(self, index: int) -> np.ndarray:
        """Its classes alone, uint8 [H, W]."""
        return read_mask(self.pairs[index][1], self.spec)


def open_pictures(root: Path | str, layout: Layout, split: str) -> PictureSet:
    """The pictures of a split; layouts that do not say their classes have a masks.yaml.

    A few masks are read at once, so that wrong numbers and sizes show before long work. Raises
    ValueError for those, for no pictures, pictures without masks, and masks without pictures.
    """
    root = Path(root)
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}, expected one of {', '.join(LAYOUTS)}")
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder, expected pictures as of {layout}")
    pairs = LAYOUTS[layout](root, split)
    if not pairs:
        raise ValueError(f"{root}: holds no pictures of {split} as of {layout}, expected some")
    for place, lack in ((0, "pictures"), (1, "masks")):
        if lone := [pair for pair in pairs if not pair[place].is_file()]:
            found = f"{counted(len(lone), lack)} of {len(pairs)} are missing"
            other = lone[0][1 - place].name
            raise ValueError(f"{lone[0][place]}: no such file ({found}), expected it for {other}")
    if layout in PUBLISHED:
        spec = MASKS[layout]
    else:
        if not (root / MASKS_FILE).is_file():
            raise ValueError(f"{root}: holds no {MASKS_FILE}, expected one that names the classes")
        spec = find_mask_spec(root)
    pictures = PictureSet(f"{root}: split {split}", spec, tuple(pairs))
    for index in np.linspace(0, len(pairs) - 1, min(READ_AT_ONCE, len(pairs))).astype(int):
        read_mask(pairs[index][1], spec, pictures.size(index))
    return pictures


def read_colours(path: Path) -> np.ndarray:
    """uint8 [H, W, 3], RGB, as stored: masks are not turned as a camera says, so neither is this.

    Raises ValueError for what is no picture.
    """
    with opened(path) as file:
        return np.asarray(file.convert("RGB"))


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A picture; ValueError for what is none, also where that shows as it is read."""
    try:
        with Image.open(path) as file:
            yield file
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path}: is no readable picture ({reason}), expected PNG or JPEG"
        ) from None


def _same_stems(pictures: Path, masks: Path) -> list[Paths]:
    """Pictures and masks of one stem; of a stem that only one has, the other as it should be."""
    found = [p for p in visible(pictures, "*") if p.suffix.lower() in ENDINGS]
    by_stem = {path.stem: path for path in found}
    if doubled := [path for path in found if by_stem[path.stem] is not path]:
        other = by_stem[doubled[0].stem].name
        raise ValueError(f"{doubled[0]}: has the stem of {other}, expected one picture of each")
    stems = sorted({*by_stem} | {path.stem for path in visible(masks, "*.png")})
    return [(by_stem.get(s, pictures / f"{s}.jpg"), masks / f"{s}.png") for s in stems]


def _ade20k(root: Path, split: str) -> list[Paths]:
    name = ADE20K_SPLITS.get(split, split)
    return _same_stems(root / "images" / name, root / "annotations" / name)


def _folder(root: Path, split: str) -> list[Paths]:
    return _same_stems(root / "images" / split, root / "masks" / split)


def _cityscapes(root: Path, split: str) -> list[Paths]:
    pictures, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    stems = {
        (path.parent.name, path.name.removesuffix(ending))
        for folder, ending in ((pictures, CITY_PICTURE), (masks, CITY_MASK))
        for path in folder.glob(f"*/[!.]*{ending}")
    }
    return [
        (pictures / city / f"{stem}{CITY_PICTURE}", masks / city / f"{stem}{CITY_MASK}")
        for city, stem in sorted(stems)
    ]


def _voc(root: Path, split: str) -> list[Paths]:
    names = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not names.is_file():
        raise ValueError(f"{names}: no such file, expected the names of its pictures")
    pictures, masks = root / "JPEGImages", root / "SegmentationClass"
    return [(pictures / f"{s}.jpg", masks / f"{s}.png") for s in sorted(names.read_text().split())]


def _simulator(root: Path, split: str) -> list[Paths]:
    frames = root / "frames" / split
    pairs: dict[tuple[str, int], Paths] = {}
    for path in visible(frames, "*.png"):
        name, _, t_us = path.stem.rpartition("_")
        if t_us.isdecimal():
            folder = root / split / f"{name}{MASKS_SUFFIX}"
            pairs[name, int(t_us)] = path, mask_path(folder, int(t_us))
    for folder in masks_in(root / split):
        name = folder.name.removesuffix(MASKS_SUFFIX)
        for time_us, path in mask_files(folder).items():
            pairs.setdefault((name, time_us), (frames / f"{name}_{time_us}.png", path))
    return [pairs[key] for key in sorted(pairs)]


LAYOUTS: dict[str, Callable[[Path, str], list[Paths]]] = {
    "ade20k": _ade20k,
    "cityscapes": _cityscapes,
    "voc": _voc,
    "folder": _folder,
    "simulator": _simulator,
}
