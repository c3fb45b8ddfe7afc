"""What stands in every street: cars, pedestrians, and things that are neither.

A figure is a list of parts painted back to front; a part keeps still, swings (legs, arms) or
spins (wheels). Sizes in metres, tones in natural-log luminance relative to the asphalt.
"""

from dataclasses import dataclass

from simulator.canvas import Canvas, Sprite
from simulator.portable import Draws

PAINTS = (-1.5, -1.2, -0.8, 0.6, 0.9, 1.2, 1.4)
GLASS, RUBBER, LAMP, SHADE = -1.7, -2.0, 1.7, -1.9
_SPOKES = ((1.0, 0.0), (0.309, 0.951), (-0.809, 0.588), (-0.809, -0.588), (0.309, -0.951))


@dataclass(frozen=True)
class Part:
    """A sprite and how it moves about its pivot (x, y).

    swing: leaning of a limb, metres sideways per metre below the pivot, at its furthest.
    lag: where in the gait it is, in cycles. wheel_radius: > 0 for a wheel that rolls.
    cadence: swings per cycle (or metre rolled) of the actor.
    """

    sprite: Sprite
    pivot: tuple[float, float] = (0.0, 0.0)
    swing: float = 0.0
    lag: float = 0.0
    wheel_radius: float = 0.0
    cadence: float = 1.0


def car_side(draws: Draws) -> list[Part]:
    """A saloon, hatchback or van seen from its side, nose to the right."""
    van = draws.chance(0.25)
    length = draws.uniform(3.7, 4.7)
    height = draws.uniform(1.7, 1.95) if van else draws.uniform(1.35, 1.55)
    paint = draws.choice(PAINTS)
    tail = draws.choice((-0.47, -0.45)) if van else draws.choice((-0.44, -0.36, -0.30))
    waist, nose = 0.60 * height, length / 2
    roof_back, roof_front = (tail + 0.05) * length, (0.16 if van else 0.06) * length
    screen = (0.33 if van else 0.25) * length
    canvas = Canvas(length, height)
    body = [
        (-nose, 0.28), (-nose + 0.02, waist - 0.1), (-nose + 0.12, waist), (tail * length, waist),
        (roof_back, height), (roof_front, height), (screen, waist), (nose - 0.25, 0.52 * height),
        (nose, 0.44 * height), (nose, 0.28),
    ]  # fmt: skip
    canvas.polygon(body, paint)
    sill, lintel = waist + 0.04, height - 0.1
    pillar = (roof_back + roof_front) / 2 + 0.1
    for foot, top, edge in (
        (tail * length + 0.14, roof_back + 0.05, pillar - 0.05),
        (screen - 0.14, roof_front - 0.05, pillar + 0.05),
    ):
        canvas.polygon([(foot, sill), (top, lintel), (edge, lintel), (edge, sill)], GLASS)
    line = paint - 0.9 if paint > 0 else paint + 0.8
    for x in (tail * length * 0.75, pillar, screen - 0.1):
        canvas.rectangle(x - 0.02, x + 0.02, 0.32, waist, line)
    canvas.rectangle(-nose + 0.1, nose - 0.1, 0.30, 0.38, SHADE)
    for x in (pillar - 0.25, pillar + 0.7):
        canvas.rectangle(x, x + 0.16, waist - 0.14, waist - 0.09, line)
    canvas.ellipse(nose - 0.12, 0.45 * height, 0.14, 0.09, LAMP)
    canvas.rectangle(-nose, -nose + 0.14, waist - 0.25, waist - 0.06, -0.6)
    radius = draws.uniform(0.29, 0.33)
    axles = (-0.30 * length, 0.31 * length)
    for axle in axles:
        canvas.ellipse(axle, radius, radius + 0.07, radius + 0.08, SHADE)
    return [Part(canvas.sprite())] + [wheel(axle, radius) for axle in axles]


def wheel(axle: float, radius: float) -> Part:
    canvas = Canvas(2 * (abs(axle) + radius), 2 * radius)
    canvas.ellipse(axle, radius, radius, radius, RUBBER)
    canvas.ellipse(axle, radius, 0.66 * radius, 0.66 * radius, 0.7)
    for dx, dy in _SPOKES:
        x, y = axle + 0.42 * radius * dx, radius + 0.42 * radius * dy
        canvas.ellipse(x, y, 0.15 * radius, 0.15 * radius, SHADE)
    return Part(canvas.sprite(), pivot=(axle, radius), wheel_radius=radius)


def car_end(draws: Draws, rear: bool) -> list[Part]:
    """A car seen from the front or from behind."""
    width, height = draws.uniform(1.65, 1.9), draws.uniform(1.4, 1.85)
    paint = draws.choice(PAINTS)
    side, waist = width / 2, 0.60 * height
    canvas = Canvas(width + 0.4, height)
    for x in (-side + 0.16, side - 0.16):
        canvas.rectangle(x - 0.13, x + 0.13, 0.0, 0.4, RUBBER)
        canvas.ellipse(1.16 * x + (0.1 if x > 0 else -0.1), waist + 0.06, 0.12, 0.08, paint - 0.4)
    body = [
        (-side, 0.24), (-side, waist - 0.1), (-side + 0.1, waist), (-0.38 * width, height - 0.05),
        (-0.30 * width, height), (0.30 * width, height), (0.38 * width, height - 0.05),
        (side - 0.1, waist), (side, waist - 0.1), (side, 0.24),
    ]  # fmt: skip
    canvas.polygon(body, paint)
    sill, lintel = waist + 0.02, height - 0.1
    foot, top = side - 0.2, 0.33 * width
    canvas.polygon([(-foot, sill), (-top, lintel), (top, lintel), (foot, sill)], GLASS)
    gleam = draws.uniform(-0.25, 0.1) * width
    shine = [(gleam, sill), (gleam + 0.12, lintel), (gleam + 0.24, lintel), (gleam + 0.12, sill)]
    canvas.polygon(shine, GLASS + 0.8)
    canvas.rectangle(-side + 0.02, side - 0.02, 0.26, 0.34, SHADE)
    if rear:
        canvas.rectangle(-side + 0.15, side - 0.15, waist - 0.09, waist - 0.05, paint - 0.8)
        canvas.rectangle(-0.26, 0.26, 0.46, 0.58, 1.4)
    else:
        canvas.rectangle(-0.30 * width, 0.30 * width, 0.40, waist - 0.14, SHADE)
        canvas.rectangle(-0.24, 0.24, 0.36, 0.47, 1.4)
    for x in (-side + 0.2, side - 0.2):
        canvas.ellipse(x, waist - 0.2, 0.17, 0.10, -0.5 if rear else LAMP)
    return [Part(canvas.sprite())]


def pedestrian(draws: Draws) -> list[Part]:
    """A person walking to the right, seen from the side: legs, arms, body, perhaps a bag."""
    h = draws.uniform(1.45, 1.9)
    build = draws.uniform(0.85, 1.3)
    coat, trousers = draws.choice(PAINTS), draws.choice((-1.6, -1.2, -0.7, 0.7))
    stride = draws.uniform(0.38, 0.6)
    hip, shoulder = (0.0, 0.50 * h), (0.0, 0.80 * h)
    leg, arm = 0.054 * h * build, 0.032 * h * build
    return [
        Part(_arm(h, arm, coat - 0.35), shoulder, 0.8 * stride, lag=0.0),
        Part(_leg(h, leg, trousers - 0.35), hip, stride, lag=0.5),
        Part(_leg(h, leg, trousers), hip, stride, lag=0.0),
        Part(_torso(draws, h, build, coat)),
        Part(_arm(h, arm, coat - 0.2), shoulder, 0.8 * stride, lag=0.5),
    ]


def _leg(h: float, half: float, tone: float) -> Sprite:
    canvas = Canvas(6 * half + 0.3, 0.50 * h)
    thigh, ankle = (half, 0.50 * h), (0.7 * half, 0.05)
    canvas.polygon([(-thigh[0], thigh[1]), thigh, ankle, (-ankle[0], ankle[1])], tone)
    canvas.polygon([(-0.8 * half, 0.0), (-0.8 * half, 0.08), (0.10, 0.06), (0.14, 0.0)], SHADE)
    return canvas.sprite()


def _arm(h: float, half: float, tone: float) -> Sprite:
    canvas = Canvas(6 * half + 0.3, 0.80 * h)
    shoulder, wrist = (half, 0.80 * h), (0.7 * half, 0.44 * h)
    canvas.polygon([(-shoulder[0], shoulder[1]), shoulder, wrist, (-wrist[0], wrist[1])], tone)
    canvas.ellipse(0.0, 0.44 * h, 0.05, 0.06, 0.5)
    return canvas.sprite()


def _torso(draws: Draws, h: float, build: float, coat: float) -> Sprite:
    """Head and coat, of one of three lengths; a rucksack, a shopping bag or nothing."""
    skin, hair = draws.uniform(0.1, 0.8), draws.uniform(-1.8, 0.2)
    canvas = Canvas(0.8 * h, h)
    shoulder, hip = 0.105 * h * build, 0.085 * h * build
    hem = draws.choice((0.47, 0.45, 0.30)) * h
    flare = hip * (1.3 if hem < 0.4 * h else 1.0)
    bag = draws.integer(0, 4)
    if bag == 0:
        canvas.ellipse(-shoulder - 0.05, 0.68 * h, 0.11, 0.13 * h, draws.choice(PAINTS))
    outline = [
        (-flare, hem), (-hip, 0.55 * h), (-shoulder, 0.78 * h), (-0.6 * shoulder, 0.835 * h),
        (0.6 * shoulder, 0.835 * h), (shoulder, 0.78 * h), (hip, 0.55 * h), (flare, hem),
    ]  # fmt: skip
    canvas.polygon(outline, coat)
    line = coat - 0.8 if coat > 0 else coat + 0.7
    if draws.chance(0.5):
        for y in (0.60, 0.67, 0.74):
            canvas.rectangle(-hip, hip, y * h, y * h + 0.04, line)
    else:
        canvas.rectangle(0.02, 0.06, hem, 0.82 * h, line)
    canvas.rectangle(-0.03 * h, 0.03 * h, 0.82 * h, 0.87 * h, skin)
    canvas.ellipse(0.0, 0.93 * h, 0.058 * h, 0.07 * h, hair)
    canvas.ellipse(0.018 * h, 0.92 * h, 0.045 * h, 0.055 * h, skin)
    if bag == 1:
        left, right = -shoulder - 0.1, -shoulder + 0.16
        canvas.rectangle(left, right, 0.40 * h, 0.54 * h, draws.choice(PAINTS))
    return canvas.sprite()


def tree(draws: Draws) -> list[Part]:
    height, spread = draws.uniform(3.5, 5.5), draws.uniform(0.8, 1.5)
    canvas = Canvas(2 * spread + 1.0, height + 0.4)
    canvas.polygon([(-0.14, 0.0), (-0.09, height * 0.6), (0.09, height * 0.6), (0.14, 0.0)], -1.1)
    for _ in range(40):
        x, y = draws.uniform(-spread, spread), draws.uniform(-1.0, 1.0)
        y = height * 0.72 + y * (1.0 - abs(x) / (1.3 * spread)) * height * 0.24
        size = draws.uniform(0.16, 0.4)
        canvas.ellipse(x, y, size, 0.8 * size, draws.uniform(-1.1, -0.1))
    return [Part(canvas.sprite())]


def lamp_post(draws: Draws) -> list[Part]:
    height = draws.uniform(4.0, 5.5)
    canvas = Canvas(1.6, height)
    tone = draws.choice((-0.9, 0.7))
    canvas.polygon([(-0.08, 0.0), (-0.05, height), (0.05, height), (0.08, 0.0)], tone)
    canvas.rectangle(0.0, 0.7, height - 0.1, height, tone)
    return [Part(canvas.sprite())]


def road_sign(draws: Draws) -> list[Part]:
    height = draws.uniform(2.0, 2.6)
    canvas = Canvas(1.0, height)
    canvas.rectangle(-0.035, 0.035, 0.0, height, -0.4)
    if draws.chance(0.5):
        canvas.ellipse(0.0, height - 0.32, 0.32, 0.32, -0.7)
        canvas.ellipse(0.0, height - 0.32, 0.24, 0.24, 1.3)
    else:
        canvas.rectangle(-0.3, 0.3, height - 0.6, height, 1.2)
        canvas.polygon([(-0.2, height - 0.5), (0.0, height - 0.1), (0.2, height - 0.5)], -0.9)
    return [Part(canvas.sprite())]


def bush(draws: Draws) -> list[Part]:
    canvas = Canvas(2.4, 1.4)
    for _ in range(30):
        x = draws.uniform(-0.9, 0.9)
        y = draws.uniform(0.1, 1.0 - 0.6 * abs(x))
        rx, ry = draws.uniform(0.1, 0.25), draws.uniform(0.1, 0.2)
        canvas.ellipse(x, y, rx, ry, draws.uniform(-1.2, 0.0))
    return [Part(canvas.sprite())]


#: Unlabelled things at the roadside.
CLUTTER = (tree, tree, lamp_post, road_sign, bush)
PLANTS = (tree, bush)
