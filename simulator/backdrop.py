"""What lies behind and below: a row of houses and sky, and the road."""

import numpy as np

from simulator.canvas import LOG_UNIT
from simulator.portable import Draws
from simulator.spec import STUFF, WIDTH

#: Panorama: columns until it repeats, and rows above and below the horizon.
PANORAMA_COLUMNS = 1024
PANORAMA_ABOVE, PANORAMA_BELOW = 160, 40
#: Road tile: texels per side (it repeats), texels per metre, levels blurred along the road.
ROAD_TEXELS, ROAD_TEXELS_PER_M, ROAD_LEVELS = 512, 20, 8


def panorama(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """int32 [rows, columns] log-luminance of sky and houses, and uint8 of which STUFF they are.

    Row PANORAMA_ABOVE is the horizon. The first WIDTH + 1 columns are repeated at the
    end, so that any window can be cut out.
    """
    rows, columns = PANORAMA_ABOVE + PANORAMA_BELOW, PANORAMA_COLUMNS
    height_above = (PANORAMA_ABOVE - np.arange(rows, dtype=np.float64))[:, None]
    stuff = np.zeros((rows, columns), np.uint8)
    picture = 0.9 + 0.003 * height_above + 0.25 * smooth_noise(draws, rows, columns, 32)
    column = 0
    while column < columns:
        width = min(draws.integer(24, 80), columns - column)
        house = slice(PANORAMA_ABOVE - draws.integer(20, 100), rows)
        picture[house, column : column + width] = _facade(draws, rows - house.start, width)
        stuff[house, column : column + width] = STUFF.index("building")
        column += width + (draws.integer(6, 40) if draws.chance(0.3) else 0)
    hedge = slice(PANORAMA_ABOVE - draws.integer(2, 10), rows)
    picture[hedge] = -0.5 + 0.35 * smooth_noise(draws, rows, columns, 4)[hedge]
    stuff[hedge] = STUFF.index("vegetation")
    picture = _soften(picture)
    picture += 0.10 * smooth_noise(draws, rows, columns, 4)
    levels = np.rint(picture * LOG_UNIT).astype(np.int32)
    again = np.arange(columns + WIDTH + 1) % columns
    return levels[:, again], stuff[:, again]


def _facade(draws: Draws, rows: int, columns: int) -> np.ndarray:
    """A house front with a grid of windows."""
    wall = draws.uniform(-0.5, 0.5)
    front = np.full((rows, columns), wall)
    pane = wall + draws.choice((-0.9, -0.6, 0.5))
    across, down = draws.integer(8, 16), draws.integer(12, 22)
    wide, tall = across * draws.uniform(0.35, 0.6), down * draws.uniform(0.4, 0.65)
    row, column = np.indices(front.shape)
    front[(row % down > down - tall) & (column % across < wide) & (row > 4)] = pane
    front[:3] = wall - 0.4
    return front


def road(draws: Draws) -> np.ndarray:
    """int32 [levels, along, across] log-luminance of asphalt, kerb and lane marks.

    Level k is averaged over 2**k texels along the road, for rows that see that much at once.
    """
    size, per_m = ROAD_TEXELS, ROAD_TEXELS_PER_M
    tile = 0.20 * smooth_noise(draws, size, size, 4) + 0.20 * smooth_noise(draws, size, size, 16)
    tile *= draws.uniform(0.6, 1.0)
    across = (np.arange(size) + size // 2) % size / per_m - size / per_m / 2
    along = np.arange(size) / per_m
    lane = draws.uniform(1.5, 1.9)
    dashed = (along % 6.4 < 3.2)[:, None]
    tile[dashed & (np.abs(across - lane) < 0.09)[None]] += 1.1
    tile[:, np.abs(across + lane) < 0.09] += 1.1
    kerb = draws.uniform(4.2, 5.5)
    tile[:, np.abs(across) > kerb] += draws.choice((-0.4, 0.35))
    slabs = (along % 1.6 < 0.1)[:, None] & (np.abs(across) > kerb)[None]
    tile[slabs] -= 0.4
    levels = [np.rint(tile * LOG_UNIT).astype(np.int32)]
    for k in range(ROAD_LEVELS - 1):
        levels.append((levels[-1] + np.roll(levels[-1], -(1 << k), axis=0) + 1) >> 1)
    return np.stack(levels)


def smooth_noise(draws: Draws, rows: int, columns: int, cell: int) -> np.ndarray:
    """float64 [rows, columns] in [-1, 1]: random values every `cell` texels, smoothly joined."""
    across = columns // cell
    grid = draws.uniforms(-1.0, 1.0, (rows // cell + 2, across))
    row, row_part = _cells(rows, cell)
    column, column_part = _cells(columns, cell)
    upper, lower = grid[row], grid[row + 1]
    left, right = column % across, (column + 1) % across
    top = upper[:, left] + (upper[:, right] - upper[:, left]) * column_part
    bottom = lower[:, left] + (lower[:, right] - lower[:, left]) * column_part
    return top + (bottom - top) * row_part[:, None]


def _cells(texels: int, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Which cell each texel is in, and its eased position within it."""
    position = np.arange(texels) / cell
    index = np.floor(position).astype(np.int64)
    part = position - index
    return index, part * part * (3.0 - 2.0 * part)


def _soften(picture: np.ndarray) -> np.ndarray:
    """The lens: a 1-2-1 blur both ways."""
    for axis in (0, 1):
        around = np.roll(picture, 1, axis) + np.roll(picture, -1, axis)
        picture = 0.5 * picture + 0.25 * around
    return picture
