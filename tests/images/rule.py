"""Pictures and labels that a tag draws, in integers: the rule behind the golden figures."""

import os
import zlib

import numpy as np

#: Other sets of figures of the same kinds give their tags a prefix.
PREFIX = os.environ.get("GOLDEN_PREFIX", "")


def _drawn(key, shape, high=None):
    generator = np.random.Generator(np.random.PCG64(zlib.crc32((key).encode())))
    values = generator.random(int(np.prod(shape))).reshape(shape)
    return values if high is None else np.floor(values * high).astype(np.int64)


def picture(tag, height, width, cell=8, texture=17):
    """uint8 [height, width, 3], RGB: a coarse random grid, enlarged, under a fine texture."""
    tag = PREFIX + tag
    grid = _drawn("picture:" + tag, (height // cell + 2, width // cell + 2, 3), 256)
    y, x = np.arange(height), np.arange(width)
    i, j, down, right = y // cell, x // cell, (y % cell)[:, None, None], (x % cell)[None, :, None]
    upper = grid[i][:, j] * (cell - right) + grid[i][:, j + 1] * right
    lower = grid[i + 1][:, j] * (cell - right) + grid[i + 1][:, j + 1] * right
    values = (upper * (cell - down) + lower * down) // (cell * cell)
    values += _drawn("texture:" + tag, (height, width, 3), texture) - texture // 2
    return np.clip(values, 0, 255).astype(np.uint8)


def labels(tag, count, classes=5, least=0.04, most=0.55):
    """Classes int [count] and boxes float64 [count, 4]: centre and sides as fractions."""
    drawn = _drawn("labels:" + PREFIX + tag, (count, 5))
    sides = least + (most - least) * drawn[:, 2:4] ** 2
    centres = sides / 2 + (1 - sides) * drawn[:, :2]
    boxes = np.floor(np.concatenate([centres, sides], 1) * 1e6) / 1e6
    return np.floor(drawn[:, 4] * classes).astype(np.int64), boxes


def corners(fractions, height, width):
    """Fractions cx cy w h -> corners in px, float64 [n, 4]."""
    x, y, w, h = fractions.T
    columns = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
    return np.stack(columns, 1)
