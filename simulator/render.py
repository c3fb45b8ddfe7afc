"""Scene -> log-luminance frames, in integers."""

from collections.abc import Iterator

import numpy as np

from gen1.compiled import compiled
from simulator.backdrop import (
    PANORAMA_ABOVE,
    PANORAMA_BELOW,
    PANORAMA_COLUMNS,
    ROAD_LEVELS,
    ROAD_TEXELS,
    ROAD_TEXELS_PER_M,
    panorama,
    road,
)
from simulator.canvas import FRACTION_BITS, MIP_LEVELS, ONE
from simulator.portable import Draws
from simulator.scene import CAMERA_HEIGHT_M, FOCAL_PX, PLACEMENT_COLUMNS, Actor, Ego
from simulator.spec import HEIGHT, STUFF, WIDTH

_TEXEL = ROAD_TEXELS_PER_M * 65536.0


class Renderer:
    """Renders the street frame by frame; `frame` int32 [H, W] is log-luminance * LOG_UNIT.

    `owner` int16 [H, W]: number of the actor that covers a pixel, -1 where there is none.
    `covered` int64 [actors]: pixels an actor would own if nothing stood before it.
    """

    def __init__(self, draws: Draws, ego: Ego, actors: list[Actor]):
        self.frame = np.zeros((HEIGHT, WIDTH), np.int32)
        self.owner = np.full((HEIGHT, WIDTH), -1, np.int16)
        self.covered = np.zeros(len(actors), np.int64)
        self._ego, self._actors = ego, actors
        (self._panorama, self._stuff), self._road = panorama(draws), road(draws)
        sprites = [part.sprite for actor in actors for part in actor.parts]
        levels = [level for sprite in sprites for level in sprite.mips]
        self._sizes = np.array([level.shape[1:] for level in levels], np.int64).reshape(-1, 2)
        ends = np.cumsum(self._sizes[:, 0] * self._sizes[:, 1])
        self._starts = np.concatenate([[0], ends])[:-1]
        texels = [level.reshape(2, -1).T for level in levels]
        self._atlas = np.concatenate(texels) if texels else np.zeros((0, 2), np.int32)
        counts = [len(actor.parts) for actor in actors]
        self._first_sprite = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def render(self, t: np.ndarray) -> Iterator[int]:
        """Yield the number of each of the times `t` (seconds), with `frame` and `owner` renewed."""
        placements = self._placements(t)
        look = self._look(t)
        rows = self._road_rows(t)
        for k in range(len(t)):
            _paint_panorama(self.frame, self._panorama, *look[k])
            _paint_road(self.frame, self._road, rows[k], *look[k, 2:])
            self.owner.fill(-1)
            self.covered.fill(0)
            _paint_parts(
                self.frame, self.owner, self.covered,
                placements[k], self._atlas, self._starts, self._sizes,
            )  # fmt: skip
            yield k

    def backdrop(self, t_s: float) -> np.ndarray:
        """uint8 [H, W]: which of STUFF is behind all actors at `t_s` seconds."""
        column, row, skyline = self._look(np.array([t_s]))[0].tolist()
        nearest = [(at + ONE // 2) >> FRACTION_BITS for at in (row, column)]
        rows = np.clip(nearest[0] + np.arange(HEIGHT), 0, len(self._stuff) - 1)
        first = nearest[1] % PANORAMA_COLUMNS
        stuff = self._stuff[rows, first : first + WIDTH]
        stuff[np.arange(HEIGHT) * ONE + ONE // 2 > skyline] = STUFF.index("road")
        return stuff

    def _placements(self, t: np.ndarray) -> np.ndarray:
        """int64 [len(t), parts, PLACEMENT_COLUMNS], farthest actor first."""
        present = [
            (float(-actor.position(t[:1])[1][0]), number)
            for number, actor in enumerate(self._actors)
            if actor.born <= t[0] < actor.dies and (actor.opacity(t) > 0).any()
        ]
        tables = [
            self._actors[number].place(self._ego, t, int(self._first_sprite[number]), number)
            for _, number in sorted(present)
        ]
        empty = np.zeros((len(t), 0, PLACEMENT_COLUMNS), np.int64)
        return np.ascontiguousarray(np.concatenate([empty, *tables], axis=1))

    def _look(self, t: np.ndarray) -> np.ndarray:
        """int64 [len(t), 3]: panorama column, row at the frame's corner; horizon row (1/ONE px)."""
        skyline = np.rint(self._ego.skyline(t) * ONE).astype(np.int64)
        column = np.rint((PANORAMA_COLUMNS - self._ego.centre(t)) * ONE).astype(np.int64)
        return np.stack([column, PANORAMA_ABOVE * ONE - skyline, skyline], axis=1)

    def _road_rows(self, t: np.ndarray) -> np.ndarray:
        """int64 [len(t), H, 4]: road u at column 0, u per column, v (1/65536 texel), blur level."""
        below = np.arange(HEIGHT) + 0.5 - self._ego.skyline(t)[:, None]
        z = FOCAL_PX * CAMERA_HEIGHT_M / np.maximum(below, 0.5)
        per_column = z / FOCAL_PX * _TEXEL
        u = (0.5 - self._ego.centre(t))[:, None] * per_column
        v = (z + self._ego.speed * self._ego.clock(t)[:, None]) * _TEXEL
        texels_per_row = z * z / (FOCAL_PX * CAMERA_HEIGHT_M) * ROAD_TEXELS_PER_M
        _, level = np.frexp(np.maximum(texels_per_row, 1.0))
        level = np.minimum(level - 1, ROAD_LEVELS - 1)
        return np.stack([np.rint(u), np.rint(per_column), np.rint(v), level], -1).astype(np.int64)


@compiled()
def _paint_panorama(frame, picture, column, row, skyline):  # type: ignore[no-untyped-def]
    """Sky and houses down to the row that holds the horizon; positions in 1/ONE px."""
    first = (column >> FRACTION_BITS) % PANORAMA_COLUMNS
    fx, fy = column & (ONE - 1), row & (ONE - 1)
    for y in range(min(HEIGHT, (skyline >> FRACTION_BITS) + 1)):
        top = min(max(y + (row >> FRACTION_BITS), 0), PANORAMA_ABOVE + PANORAMA_BELOW - 2)
        upper = picture[top, first : first + WIDTH + 1]
        lower = picture[top + 1, first : first + WIDTH + 1]
        line = frame[y]
        for x in range(WIDTH):
            line[x] = _mix(_mix(upper[x], upper[x + 1], fx), _mix(lower[x], lower[x + 1], fx), fy)


@compiled()
def _mix(a, b, share):  # type: ignore[no-untyped-def]
    """From a (share 0) to b (share ONE), rounded."""
    return a + (((b - a) * share + ONE // 2) >> FRACTION_BITS)


@compiled()
def _paint_road(frame, tiles, rows, skyline):  # type: ignore[no-untyped-def]
    """The road below the horizon, in perspective; the horizon's own row is shared with the sky."""
    mask = ROAD_TEXELS - 1
    horizon = skyline >> FRACTION_BITS
    for y in range(max(0, horizon), HEIGHT):
        u, du, v, level = rows[y]
        share = ONE - (skyline & (ONE - 1)) if y == horizon else ONE
        v -= 32768 << level
        fv = (v >> 4) & (ONE - 1)
        near, far = tiles[level, (v >> 16) & mask], tiles[level, ((v >> 16) + 1) & mask]
        contrast = ONE if du < 131072 else ONE * 131072 // du
        line = frame[y]
        for x in range(WIDTH):
            left, right, fu = (u >> 16) & mask, ((u >> 16) + 1) & mask, (u >> 4) & (ONE - 1)
            tone = _mix(_mix(near[left], near[right], fu), _mix(far[left], far[right], fu), fv)
            line[x] = _mix(line[x], (tone * contrast) >> FRACTION_BITS, share)
            u += du


@compiled()
def _paint_parts(  # type: ignore[no-untyped-def]
    frame, owner, covered, placements, atlas, starts, sizes
):
    """Lay every part over what is behind it, farthest first."""
    for k in range(len(placements)):
        sprite, number, opacity, x0, x1, y0, y1, u0, v0, ux, uy, vx, vy, mip = placements[k]
        level, share = mip >> FRACTION_BITS, mip & (ONE - 1)
        fine = sprite * MIP_LEVELS + level
        start_a, rows_a, columns_a = starts[fine], sizes[fine, 0], sizes[fine, 1]
        start_b, rows_b, columns_b = starts[fine + 1], sizes[fine + 1, 0], sizes[fine + 1, 1]
        for y in range(y0, y1):
            for x in range(x0, x1):
                u, v = u0 + y * uy + x * ux, v0 + y * vy + x * vx
                tone_b, alpha_b = _texel(atlas, start_b, rows_b, columns_b, u, v, level + 1)
                if alpha_b == 0:
                    continue
                tone_a, alpha_a = _texel(atlas, start_a, rows_a, columns_a, u, v, level)
                alpha = _mix(alpha_a, alpha_b, share)
                tone = _mix(tone_a, tone_b, share)
                behind = frame[y, x]
                over = (tone + behind * (ONE - alpha)) >> FRACTION_BITS
                frame[y, x] = _mix(behind, over, opacity)
                if alpha >= ONE // 2 and owner[y, x] != number:
                    owner[y, x] = number
                    covered[number] += 1


@compiled()
def _texel(atlas, start, rows, columns, u, v, level):  # type: ignore[no-untyped-def]
    """Bilinear (tone * opacity, opacity) at (u, v) in 1/65536 texel; nothing beyond the rim."""
    u, v = (u >> level) - 32768, (v >> level) - 32768
    column, row = u >> 16, v >> 16
    if column < 0 or row < 0 or column >= columns - 1 or row >= rows - 1:
        return 0, 0
    fu, fv = (u >> 4) & (ONE - 1), (v >> 4) & (ONE - 1)
    at = start + row * columns + column
    below = at + columns
    tone_above = _mix(atlas[at, 0], atlas[at + 1, 0], fu)
    tone_below = _mix(atlas[below, 0], atlas[below + 1, 0], fu)
    alpha_above = _mix(atlas[at, 1], atlas[at + 1, 1], fu)
    alpha_below = _mix(atlas[below, 1], atlas[below + 1, 1], fu)
    return _mix(tone_above, tone_below, fv), _mix(alpha_above, alpha_below, fv)
