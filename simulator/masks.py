"""What every pixel of a street is: PNG masks at the label times, and a YAML that names the classes.

Classes: STUFF, then those of the streets. Road is all ground, with lane marks and pavement; trees,
bushes and the hedge are vegetation; lamp posts and signs are background, as the sky is. What
fades in the haze is IGNORED.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from gen1.atomic import atomic_write
from gen1.masks import MASKS_FILE, MASKS_SUFFIX, mask_path
from simulator.canvas import ONE
from simulator.render import Renderer
from simulator.scene import Actor
from simulator.spec import STUFF

IGNORED = 255
#: Least opacity of what one can be asked to see, of ONE.
MIN_OPACITY = ONE // 2
#: As Cityscapes draws its classes, where it has them.
COLOURS = {
    "background": (70, 130, 180),
    "road": (128, 64, 128),
    "building": (70, 70, 70),
    "vegetation": (107, 142, 35),
    "car": (0, 0, 142),
    "pedestrian": (220, 20, 60),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "two-wheeler": (0, 0, 230),
    "cyclist": (119, 11, 32),
}


def class_map(renderer: Renderer, actors: Sequence[Actor], t_s: float) -> np.ndarray:
    """uint8 [H, W]: the class of every pixel of the frame that was rendered last, at `t_s`."""
    t = np.array([t_s])
    table = np.zeros(len(actors) + 1, np.uint8)  # the first is nobody's
    for number, actor in enumerate(actors, 1):
        if actor.opacity(t)[0] < MIN_OPACITY:
            table[number] = IGNORED
        elif actor.class_id is None:
            table[number] = STUFF.index(actor.stuff)
        else:
            table[number] = len(STUFF) + actor.class_id
    return np.where(renderer.owner < 0, renderer.backdrop(t_s), table[renderer.owner + 1])


def masks_folder(out: Path, split: str, name: str) -> Path:
    return out / split / f"{name}{MASKS_SUFFIX}"


def write_masks(folder: Path, masks: Sequence[np.ndarray], times_us: Sequence[int]) -> None:
    """A mask per label time, each renamed into place when whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for mask, t_us in zip(masks, times_us, strict=True):
        with atomic_write(mask_path(folder, t_us)) as file:
            Image.fromarray(mask).save(file, "PNG")


def write_classes(out: Path, classes: Sequence[str]) -> None:
    """OUT/masks.yaml: the classes of the masks in the order of their numbers."""
    names = [*STUFF, *classes]
    content = {
        "name": "synthetic",
        "classes": names,
        "colours": [list(COLOURS[name]) for name in names],
        "ignored": IGNORED,
    }
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=1000)
    with atomic_write(out / MASKS_FILE) as file:
        file.write(text.encode())
