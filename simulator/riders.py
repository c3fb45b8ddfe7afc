"""Who rides on two wheels: motorcycles and bicycles with their riders, nose to the right."""

from math import sqrt

import numpy as np

from simulator.canvas import Canvas
from simulator.figures import GLASS, LAMP, PAINTS, RUBBER, SHADE, Part, wheel
from simulator.portable import Draws, wave

_TYRE_CORNERS = 24
#: Metres a bicycle rolls for one turn of its pedals.
_GEAR_M = 4.5


def two_wheeler(draws: Draws) -> list[Part]:
    """A motorcycle and its rider in a helmet: a heavy body low between fat wheels."""
    h = draws.uniform(1.48, 1.66)
    paint, coat, helmet = draws.choice(PAINTS), draws.choice(PAINTS), draws.choice(PAINTS)
    radius = draws.uniform(0.29, 0.32)
    front, rear = 0.70, -0.70
    canvas = Canvas(2.2, h)
    _bar(canvas, (front, radius), (0.42, 0.98), 0.04, 0.6)
    _bar(canvas, (rear, radius), (-0.1, 0.36), 0.05, -0.5)
    canvas.polygon([(-0.35, 0.24), (-0.30, 0.62), (0.32, 0.62), (0.36, 0.26)], -0.9)
    canvas.ellipse(0.02, 0.42, 0.17, 0.15, 0.5)
    tail = -0.95 if draws.chance(0.5) else -0.85
    body = [
        (tail, 0.86), (tail, 0.76), (-0.45, 0.60), (0.30, 0.60), (0.50, 0.80), (0.42, 0.98),
        (0.12, 0.94), (-0.10, 0.80), (-0.60, 0.80),
    ]  # fmt: skip
    canvas.polygon(body, paint)
    canvas.rectangle(-0.62, -0.08, 0.77, 0.84, SHADE)
    _bar(canvas, (-0.90, 0.34), (-0.25, 0.32), 0.06, 0.9)
    canvas.ellipse(0.53, 0.90, 0.10, 0.11, LAMP)
    if draws.chance(0.4):  # a screen
        canvas.polygon([(0.48, 0.96), (0.36, 1.25), (0.44, 1.25), (0.62, 0.94)], GLASS + 0.8)
    if draws.chance(0.4):  # a top case
        canvas.rectangle(-0.98, -0.62, 0.84, 1.14, draws.choice(PAINTS))
    _motorcyclist(canvas, h, coat, helmet)
    return [wheel(rear, radius), wheel(front, radius), Part(canvas.sprite())]


def _motorcyclist(canvas: Canvas, h: float, coat: float, helmet: float) -> None:
    hip, knee, foot = (-0.30, 0.88), (0.12, 0.76), (-0.12, 0.36)
    shoulder = (-0.06, h - 0.34)
    _bar(canvas, knee, foot, 0.07, -1.3)
    _bar(canvas, hip, knee, 0.09, -1.3)
    canvas.ellipse(foot[0] + 0.07, foot[1] - 0.04, 0.13, 0.05, SHADE)
    _bar(canvas, hip, shoulder, 0.16, coat)
    elbow = (0.12, 1.02)
    _bar(canvas, shoulder, elbow, 0.06, coat - 0.3)
    _bar(canvas, elbow, (0.42, 1.02), 0.05, coat - 0.3)
    canvas.ellipse(0.04, h - 0.15, 0.15, 0.15, helmet)
    canvas.rectangle(0.08, 0.19, h - 0.20, h - 0.11, GLASS)


def cyclist(draws: Draws) -> list[Part]:
    """A bicycle of thin tubes and open wheels; the rider sits upright, high above it."""
    h = draws.uniform(1.65, 1.85)
    paint, coat, trousers = draws.choice(PAINTS), draws.choice(PAINTS), draws.choice((-1.5, -0.8))
    radius = draws.uniform(0.33, 0.35)
    front, rear = (0.53, radius), (-0.51, radius)
    saddle, head, crank = (-0.20, 0.94), (0.36, 0.92), (-0.05, 0.29)
    canvas = Canvas(1.9, h)
    for start, end in (
        (rear, crank), (rear, saddle), (crank, saddle),
        (crank, head), (saddle, head), (head, front),
    ):  # fmt: skip
        _bar(canvas, start, end, 0.022, paint)
    canvas.ellipse(*crank, 0.09, 0.09, SHADE)
    canvas.rectangle(-0.33, -0.08, 0.93, 0.98, SHADE)
    _bar(canvas, head, (0.34, 1.06), 0.022, paint)
    load = draws.integer(0, 3)
    if load == 0:  # a basket
        canvas.rectangle(0.42, 0.72, 0.84, 1.06, draws.choice(PAINTS))
    hip, shoulder, top = (-0.20, 1.02), (0.06, h - 0.33), h - 0.13
    _bar(canvas, hip, shoulder, 0.13, coat)
    _bar(canvas, shoulder, (0.36, 1.08), 0.045, coat - 0.3)
    canvas.ellipse(0.10, top, 0.10, 0.13, draws.uniform(0.1, 0.8))
    hat = draws.choice((-1.5, 1.2))
    canvas.polygon(
        [(-0.03, top + 0.02), (0.0, top + 0.13), (0.18, top + 0.13), (0.23, top + 0.04)], hat
    )
    if load == 1:  # a rucksack
        canvas.ellipse(-0.22, h - 0.52, 0.13, 0.19, draws.choice(PAINTS))
    legs = [_pedalling(hip, tone, lag) for tone, lag in ((trousers - 0.3, 0.5), (trousers, 0.0))]
    wheels = [_open_wheel(axle, radius) for axle, radius in (rear, front)]
    return [legs[0], *wheels, Part(canvas.sprite()), legs[1]]


def _pedalling(hip: tuple[float, float], tone: float, lag: float) -> Part:
    """A leg from the hip down to its pedal, which swings once a turn of the crank."""
    x, y = hip[0] + 0.08, hip[1]
    canvas = Canvas(0.9, y + 0.1)
    canvas.polygon([(x - 0.10, y), (x + 0.10, y), (x + 0.06, 0.26), (x - 0.04, 0.26)], tone)
    canvas.polygon([(x - 0.06, 0.20), (x - 0.06, 0.28), (x + 0.12, 0.26), (x + 0.16, 0.20)], SHADE)
    return Part(canvas.sprite(), (x, y), swing=0.24, lag=lag, cadence=1 / _GEAR_M)


def _open_wheel(axle: float, radius: float) -> Part:
    """A tyre one can look through, and spokes."""
    canvas = Canvas(2 * (abs(axle) + radius), 2 * radius)
    turn = np.arange(_TYRE_CORNERS + 1) / _TYRE_CORNERS
    circle = np.stack([wave(turn), wave(turn + 0.25)], axis=1)
    centre = np.array([axle, radius])
    for k in range(0, _TYRE_CORNERS // 2, 3):
        tip = 0.95 * radius * circle[k]
        _bar(canvas, tuple(centre - tip), tuple(centre + tip), 0.012, 0.8)
    rim = [*(centre + radius * circle), *(centre + (radius - 0.05) * circle[::-1])]
    canvas.polygon([(float(x), float(y)) for x, y in rim], RUBBER)
    return Part(canvas.sprite(), pivot=(axle, radius), wheel_radius=radius)


def _bar(
    canvas: Canvas, start: tuple[float, ...], end: tuple[float, ...], half: float, tone: float
) -> None:
    """A straight limb or tube, `half` a thickness to either side of its line."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = sqrt(dx * dx + dy * dy)
    across, up = -dy / length * half, dx / length * half
    corners = [
        (start[0] + across, start[1] + up), (end[0] + across, end[1] + up),
        (end[0] - across, end[1] - up), (start[0] - across, start[1] - up),
    ]  # fmt: skip
    canvas.polygon(corners, tone)
