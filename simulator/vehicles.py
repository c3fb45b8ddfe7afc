"""Trucks and buses, drawn in metres like the cars of `figures`."""

from simulator.canvas import Canvas
from simulator.figures import GLASS, LAMP, PAINTS, RUBBER, SHADE, Part, wheel
from simulator.portable import Draws

_BRIGHT = 1.5


def _line_on(paint: float) -> float:
    """A tone that is seen on this paint."""
    return paint - 0.9 if paint > 0 else paint + 0.8


def truck_side(draws: Draws) -> list[Part]:
    """A lorry seen from its side, nose to the right: a box, a lower cab, two or three axles."""
    length, height = draws.uniform(7.4, 8.6), draws.uniform(3.0, 3.4)
    paint, load = draws.choice(PAINTS), draws.choice(PAINTS)
    nose = length / 2
    back, roof = nose - draws.uniform(1.8, 2.1), draws.uniform(0.78, 0.88) * height
    radius = draws.uniform(0.44, 0.50)
    canvas = Canvas(length, height)
    canvas.rectangle(-nose + 0.1, nose - 0.2, 0.52, 1.0, SHADE)
    end, line = back - 0.2, _line_on(load)
    canvas.rectangle(-nose, end, 1.0, height, load)
    canvas.rectangle(-nose, end, 1.0, 1.08, line)
    if draws.chance(0.5):  # the hoops of a tarpaulin
        for k in range(1, 9):
            x = -nose + k * (end + nose) / 9
            canvas.rectangle(x - 0.02, x + 0.02, 1.08, height, line)
    else:  # a firm's sign
        middle = (end - nose) / 2
        canvas.ellipse(middle, 0.66 * height, 0.27 * (end + nose), 0.18 * height, line)
        canvas.ellipse(middle, 0.66 * height, 0.21 * (end + nose), 0.10 * height, load)
    cab = [
        (back, 0.45), (back, roof - 0.1), (back + 0.1, roof), (nose - 0.4, roof),
        (nose - 0.06, 1.55), (nose, 1.4), (nose, 0.35), (back + 0.1, 0.35),
    ]  # fmt: skip
    canvas.polygon(cab, paint)
    sill, lintel, slant = 1.6, roof - 0.2, nose - 0.22
    window = [(back + 0.75, sill), (back + 0.75, lintel), (nose - 0.5, lintel), (slant, sill)]
    canvas.polygon(window, GLASS)
    for x in (back + 0.68, slant):
        canvas.rectangle(x - 0.02, x + 0.02, 0.7, sill, _line_on(paint))
    canvas.rectangle(nose - 0.16, nose - 0.04, 1.55, 2.0, SHADE)
    canvas.ellipse(nose - 0.10, 0.62, 0.12, 0.11, LAMP)
    canvas.rectangle(-nose, -nose + 0.12, 0.7, 0.95, -0.6)
    rear = -nose + draws.uniform(1.5, 1.9)
    axles = [nose - 1.15, rear] + ([rear + 2.3 * radius] if draws.chance(0.5) else [])
    for axle in axles:
        canvas.ellipse(axle, radius, radius + 0.08, radius + 0.08, SHADE)
    return [Part(canvas.sprite())] + [wheel(axle, radius) for axle in axles]


def truck_front(draws: Draws) -> list[Part]:
    """A lorry that comes towards the camera: the cab before a higher and wider box."""
    width, height = draws.uniform(2.35, 2.55), draws.uniform(3.0, 3.4)
    paint, load = draws.choice(PAINTS), draws.choice(PAINTS)
    side, roof = width / 2 - 0.1, draws.uniform(0.78, 0.88) * height
    canvas = Canvas(width + 0.5, height)
    canvas.rectangle(-width / 2, width / 2, 0.9, height, load)
    canvas.rectangle(-width / 2, width / 2, height - 0.08, height, _line_on(load))
    for x in (-side + 0.2, side - 0.2):
        canvas.rectangle(x - 0.17, x + 0.17, 0.0, 0.5, RUBBER)
    cab = [
        (-side, 0.32), (-side, roof - 0.15), (-side + 0.15, roof), (side - 0.15, roof),
        (side, roof - 0.15), (side, 0.32),
    ]  # fmt: skip
    canvas.polygon(cab, paint)
    foot, top = side - 0.08, side - 0.18
    screen = [(-foot, 1.55), (-top, roof - 0.25), (top, roof - 0.25), (foot, 1.55)]
    canvas.polygon(screen, GLASS)
    for k in range(4):
        canvas.rectangle(-0.6 * side, 0.6 * side, 0.78 + 0.16 * k, 0.86 + 0.16 * k, SHADE)
    canvas.rectangle(-side, side, 0.32, 0.48, SHADE)
    canvas.rectangle(-0.26, 0.26, 0.50, 0.61, 1.4)
    for sign in (-1, 1):
        canvas.ellipse(sign * (side - 0.25), 0.62, 0.17, 0.11, LAMP)
        canvas.rectangle(sign * (side + 0.2) - 0.08, sign * (side + 0.2) + 0.08, 1.5, 2.05, SHADE)
        canvas.rectangle(sign * (side + 0.1) - 0.12, sign * (side + 0.1) + 0.12, 2.0, 2.05, SHADE)
    return [Part(canvas.sprite())]


def bus_side(draws: Draws) -> list[Part]:
    """A city bus seen from its side, nose to the right: a row of windows, doors, two axles."""
    length, height = draws.uniform(11.2, 12.4), draws.uniform(2.9, 3.1)
    paint = draws.choice(PAINTS)
    line, nose = _line_on(paint), length / 2
    canvas = Canvas(length, height)
    canvas.rectangle(-0.30 * length, 0.22 * length, height - 0.25, height, -0.6)
    roof = height - 0.14
    body = [
        (-nose, 0.35), (-nose, roof - 0.15), (-nose + 0.15, roof), (nose - 0.35, roof),
        (nose - 0.08, roof - 0.3), (nose, 1.2), (nose, 0.35),
    ]  # fmt: skip
    canvas.polygon(body, paint)
    canvas.rectangle(-nose, nose, 0.35, 0.45, SHADE)
    if draws.chance(0.6):
        canvas.rectangle(-nose + 0.02, nose - 0.02, 0.95, 1.12, line)
    sill, lintel = 1.25, roof - 0.32
    pane = (length - 1.4) / 8
    for k in range(8):
        left = -nose + 0.3 + k * pane
        canvas.rectangle(left + 0.05, left + pane - 0.05, sill, lintel, GLASS)
    slant = [(nose - 0.9, sill), (nose - 0.9, lintel), (nose - 0.2, lintel), (nose - 0.05, sill)]
    canvas.polygon(slant, GLASS)
    canvas.rectangle(nose - 3.0, nose - 1.1, lintel + 0.05, lintel + 0.22, _BRIGHT)
    for right in (nose - 0.95, 0.06 * length, -0.27 * length)[: draws.choice((2, 3))]:
        canvas.rectangle(right - 1.2, right, 0.42, lintel, line)
        for left in (right - 1.14, right - 0.57):
            canvas.rectangle(left, left + 0.5, 0.5, lintel - 0.06, GLASS + 0.3)
    canvas.ellipse(nose - 0.12, 0.72, 0.13, 0.11, LAMP)
    canvas.rectangle(-nose, -nose + 0.1, 0.7, 1.1, -0.6)
    radius = draws.uniform(0.46, 0.50)
    axles = (-nose + 3.3, nose - 2.75)
    for axle in axles:
        canvas.ellipse(axle, radius, radius + 0.09, radius + 0.09, SHADE)
    return [Part(canvas.sprite())] + [wheel(axle, radius) for axle in axles]


def bus_front(draws: Draws) -> list[Part]:
    """A bus that comes towards the camera: one large screen, the line's sign, hanging mirrors."""
    width, height = draws.uniform(2.4, 2.55), draws.uniform(2.9, 3.1)
    paint = draws.choice(PAINTS)
    side = width / 2
    canvas = Canvas(width + 0.7, height)
    for x in (-side + 0.25, side - 0.25):
        canvas.rectangle(x - 0.15, x + 0.15, 0.0, 0.5, RUBBER)
    body = [
        (-side, 0.3), (-side, height - 0.2), (-side + 0.2, height), (side - 0.2, height),
        (side, height - 0.2), (side, 0.3),
    ]  # fmt: skip
    canvas.polygon(body, paint)
    canvas.rectangle(-side + 0.08, side - 0.08, 1.05, height - 0.12, GLASS)
    canvas.rectangle(-0.6 * side, 0.6 * side, height - 0.42, height - 0.18, _BRIGHT)
    canvas.rectangle(-side + 0.08, side - 0.08, height - 0.52, height - 0.47, paint)
    canvas.rectangle(-0.02, 0.02, 1.05, height - 0.52, GLASS + 0.7)
    canvas.rectangle(-side, side, 0.3, 0.42, SHADE)
    canvas.rectangle(-0.26, 0.26, 0.46, 0.57, 1.4)
    for sign in (-1, 1):
        canvas.ellipse(sign * (side - 0.28), 0.72, 0.18, 0.11, LAMP)
        canvas.rectangle(sign * (side + 0.16) - 0.08, sign * (side + 0.16) + 0.08, 1.8, 2.4, SHADE)
        canvas.rectangle(sign * side - 0.2, sign * side + 0.2, 2.4, 2.46, SHADE)
    return [Part(canvas.sprite())]
