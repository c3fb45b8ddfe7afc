"""Choose what happens in a street: the ego-motion, who enters when, and what lines the road."""

import numpy as np

from simulator import figures
from simulator.figures import Part
from simulator.portable import Draws
from simulator.scene import FOCAL_PX, HAZE_TO_M, Actor, Ego
from simulator.spec import CLASSES, WIDTH

_CAR, _PEDESTRIAN = CLASSES.index("car"), CLASSES.index("pedestrian")
_TICK_S, _WARM_UP_S = 0.25, 6.0
#: Distances in m at which actors enter, near or (one in five) far: so chosen that size does not
#: tell the class.
_CAR_NEAR_M, _CAR_FAR_M = (5.5, 13.0), (14.0, 21.0)
_PEDESTRIAN_NEAR_M, _PEDESTRIAN_FAR_M = (4.5, 15.0), (16.0, 25.0)
_FAR_SHARE = 0.2


def ego_motion(draws: Draws) -> Ego:
    yaw = (
        (draws.uniform(15, 50), draws.uniform(0.10, 0.20), draws.uniform(0, 1)),
        (draws.uniform(4, 9), draws.uniform(0.5, 0.9), draws.uniform(0, 1)),
        (draws.uniform(0.4, 0.8), draws.uniform(2.0, 5.0), draws.uniform(0, 1)),
    )
    pitch = (
        (draws.uniform(0.5, 1.5), draws.uniform(0.8, 1.6), draws.uniform(0, 1)),
        (draws.uniform(0.25, 0.5), draws.uniform(4.0, 9.0), draws.uniform(0, 1)),
    )
    return Ego(draws.uniform(0.4, 2.5), draws.uniform(95, 115), yaw, pitch)


def cast(draws: Draws, ego: Ego, seconds: float) -> list[Actor]:
    """Everything that appears in `seconds`: two to five labelled actors at a time, and clutter."""
    actors = _roadside(draws, ego, seconds)
    wanted = 0
    for tick in range(round((_WARM_UP_S + seconds) / _TICK_S)):
        t = tick * _TICK_S - _WARM_UP_S
        if tick % 10 == 0:
            wanted = draws.integer(2, 6)
        present = [a for a in actors if a.class_id is not None and a.born <= t < a.dies]
        for actor in present:
            if t - actor.born >= 1.0 and _gone(actor, ego, t):
                actor.dies = t
        if sum(actor.dies > t for actor in present) < wanted:
            actors.append(_newcomer(draws, ego, t))
    return [actor for actor in actors if actor.dies > 0.0]


def _gone(actor: Actor, ego: Ego, t: float) -> bool:
    now = np.array([t])
    box = actor.boxes(ego, now)[0]
    _, z = actor.position(now)
    return bool(box[2] < -12 or box[0] > WIDTH + 12 or z[0] > HAZE_TO_M or z[0] <= actor.nearest)


def _newcomer(draws: Draws, ego: Ego, t: float) -> Actor:
    if draws.chance(0.66):
        return _walker(draws, ego, t)
    kind = draws.uniform(0, 1)
    if kind < 0.5:
        return _crossing_car(draws, ego, t)
    return _oncoming_car(draws, ego, t) if kind < 0.72 else _overtaking_car(draws, t)


def _walker(draws: Draws, ego: Ego, t: float) -> Actor:
    speed = draws.uniform(0.7, 1.7)
    z = draws.uniform(*(_PEDESTRIAN_FAR_M if draws.chance(_FAR_SHARE) else _PEDESTRIAN_NEAR_M))
    walker = _enter(draws, ego, t, figures.pedestrian(draws), _PEDESTRIAN, z, speed)
    walker.rate = draws.uniform(0.7, 1.0) * speed
    return walker


def _crossing_car(draws: Draws, ego: Ego, t: float) -> Actor:
    z = draws.uniform(*(_CAR_FAR_M if draws.chance(_FAR_SHARE) else _CAR_NEAR_M))
    speed = draws.uniform(0.20, 0.45) * z
    car = _enter(draws, ego, t, figures.car_side(draws), _CAR, z, speed)
    car.rate = speed
    return car


def _enter(
    draws: Draws, ego: Ego, t: float, parts: list[Part], class_id: int, z: float, speed: float
) -> Actor:
    """Just outside the frame, left or right, moving in; the camera gains on it at half speed."""
    side = draws.choice((-1, 1))
    reach = max(part.sprite.extent[1] for part in parts)
    edge_px = (WIDTH if side > 0 else 0) - float(ego.centre(np.array([t]))[0])
    x = edge_px * z / FOCAL_PX + side * reach
    return Actor(parts, class_id, -side, t, x, z, -side * speed, -0.5 * ego.speed)


def _oncoming_car(draws: Draws, ego: Ego, t: float) -> Actor:
    parts = figures.car_end(draws, rear=False)
    x, vz = -draws.uniform(2.6, 4.0), -draws.uniform(3.0, 7.0) - ego.speed
    return Actor(parts, _CAR, 1, t, x, HAZE_TO_M, 0.0, vz)


def _overtaking_car(draws: Draws, t: float) -> Actor:
    """Passes the camera on either side and drives away ahead."""
    parts = figures.car_end(draws, rear=True)
    x = draws.choice((-1, 1)) * draws.uniform(2.7, 3.6)
    return Actor(parts, _CAR, 1, t, x, 4.0, -0.1 * x, draws.uniform(0.8, 2.5))


def _roadside(draws: Draws, ego: Ego, seconds: float) -> list[Actor]:
    """Clutter and parked cars: they stand still in the world, so they come nearer."""
    actors = []
    z = 4.0
    while z < HAZE_TO_M + ego.speed * seconds:
        side = draws.choice((-1, 1))
        if draws.chance(0.12):
            parts, class_id, x = figures.car_end(draws, rear=True), _CAR, draws.uniform(3.0, 3.8)
        else:
            parts, class_id, x = draws.choice(figures.CLUTTER)(draws), None, draws.uniform(4.5, 8.0)
        actors.append(Actor(parts, class_id, 1, 0.0, side * x, z, 0.0, -ego.speed))
        z += draws.uniform(3.0, 6.0)
    return actors
