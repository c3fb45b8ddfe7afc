"""Choose what happens in a street: the ego-motion, who enters when, and what lines the road."""

from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np

from simulator import figures, riders, vehicles
from simulator.clock import MOVING, lights, waiting
from simulator.figures import Part
from simulator.portable import Draws
from simulator.scene import FOCAL_PX, HAZE_TO_M, Actor, Ego
from simulator.spec import CLASSES, STUFF, WIDTH

_TICK_S, _WARM_UP_S = 0.25, 6.0
#: Share of far distances among those at which actors enter.
_FAR_SHARE = 0.2


def ego_motion(draws: Draws, stops_for_s: float = 0.0) -> Ego:
    """stops_for_s: let it wait at lights, in so many seconds."""
    yaw = (
        (draws.uniform(15, 50), draws.uniform(0.10, 0.20), draws.uniform(0, 1)),
        (draws.uniform(4, 9), draws.uniform(0.5, 0.9), draws.uniform(0, 1)),
        (draws.uniform(0.4, 0.8), draws.uniform(2.0, 5.0), draws.uniform(0, 1)),
    )
    pitch = (
        (draws.uniform(0.5, 1.5), draws.uniform(0.8, 1.6), draws.uniform(0, 1)),
        (draws.uniform(0.25, 0.5), draws.uniform(4.0, 9.0), draws.uniform(0, 1)),
    )
    speed, horizon = draws.uniform(0.4, 2.5), draws.uniform(95, 115)
    return Ego(speed, horizon, yaw, pitch, lights(draws, stops_for_s) if stops_for_s else MOVING)


def cast(draws: Draws, ego: Ego, seconds: float, classes: Sequence[str] = CLASSES) -> list[Actor]:
    """Everything that appears in `seconds`: two to five labelled actors at a time, and clutter.

    classes: names in ENTRANCES; an actor's class_id is its place there.
    """
    actors = _roadside(draws, ego, seconds, classes)
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
            actors.append(_newcomer(draws, ego, t, classes))
    return [actor for actor in actors if actor.dies > 0.0]


def _gone(actor: Actor, ego: Ego, t: float) -> bool:
    now = np.array([t])
    box = actor.boxes(ego, now)[0]
    _, z = actor.position(now)
    return bool(box[2] < -12 or box[0] > WIDTH + 12 or z[0] > HAZE_TO_M or z[0] <= actor.nearest)


def _newcomer(draws: Draws, ego: Ego, t: float, classes: Sequence[str]) -> Actor:
    """Of a class drawn by the shares of those in the street, whatever their order."""
    names = [name for name in ENTRANCES if name in classes]
    *edges, whole = accumulate(ENTRANCES[name][0] for name in names)
    name = names[bisect(edges, draws.uniform(0, whole))]
    actor = ENTRANCES[name][1](draws, ego, t)
    actor.class_id, actor.ego = classes.index(name), ego.clock
    if ego.clock.stops:
        actor.clock = waiting(draws, ego.clock, t)
    return actor


def _pedestrian(draws: Draws, ego: Ego, t: float) -> Actor:
    speed = draws.uniform(0.7, 1.7)
    z = _distance(draws, (4.5, 15.0), (16.0, 25.0))
    walker = _enter(draws, ego, t, figures.pedestrian(draws), z, speed)
    walker.rate = draws.uniform(0.7, 1.0) * speed
    return walker


def _car(draws: Draws, ego: Ego, t: float) -> Actor:
    kind = draws.uniform(0, 1)
    if kind < 0.5:
        z = _distance(draws, (5.5, 13.0), (14.0, 21.0))
        speed = draws.uniform(0.20, 0.45) * z
        return _enter(draws, ego, t, figures.car_side(draws), z, speed)
    if kind < 0.72:
        return _oncoming(draws, ego, t, figures.car_end(draws, rear=False), (2.6, 4.0))
    return _overtaking_car(draws, ego, t)


def _truck(draws: Draws, ego: Ego, t: float) -> Actor:
    if draws.chance(0.4):
        return _oncoming(draws, ego, t, vehicles.truck_front(draws), (3.2, 4.6))
    z = _distance(draws, (9.0, 17.0), (18.0, 24.0))
    speed = draws.uniform(0.18, 0.38) * z
    return _enter(draws, ego, t, vehicles.truck_side(draws), z, speed, closing=0.0)


def _bus(draws: Draws, ego: Ego, t: float) -> Actor:
    if draws.chance(0.4):
        return _oncoming(draws, ego, t, vehicles.bus_front(draws), (3.2, 4.6))
    z = _distance(draws, (12.0, 19.0), (20.0, 25.0))
    speed = draws.uniform(0.18, 0.35) * z
    return _enter(draws, ego, t, vehicles.bus_side(draws), z, speed, closing=0.0)


def _two_wheeler(draws: Draws, ego: Ego, t: float) -> Actor:
    z = _distance(draws, (4.5, 13.0), (14.0, 21.0))
    return _enter(draws, ego, t, riders.two_wheeler(draws), z, draws.uniform(4.0, 8.0))


def _cyclist(draws: Draws, ego: Ego, t: float) -> Actor:
    z = _distance(draws, (4.5, 13.0), (14.0, 21.0))
    return _enter(draws, ego, t, riders.cyclist(draws), z, draws.uniform(2.0, 4.5))


#: Classes there can be in a street: share among those who enter, and how they do. So chosen that
#: size does not tell pedestrians from cars, and six classes have 12 to 23 % of the labels each
#: (of 225 in 40 streets of seed 5, 0.5 s each).
ENTRANCES: dict[str, tuple[float, Callable[[Draws, Ego, float], Actor]]] = {
    "pedestrian": (0.66, _pedestrian),
    "car": (0.34, _car),
    "truck": (0.8, _truck),
    "bus": (0.8, _bus),
    "two-wheeler": (2.0, _two_wheeler),
    "cyclist": (1.5, _cyclist),
}


def _distance(draws: Draws, near_m: tuple[float, float], far_m: tuple[float, float]) -> float:
    return draws.uniform(*(far_m if draws.chance(_FAR_SHARE) else near_m))


def _enter(
    draws: Draws,
    ego: Ego,
    t: float,
    parts: list[Part],
    z: float,
    speed: float,
    closing: float = 0.5,
) -> Actor:
    """Just outside the frame, left or right, moving in and rolling.

    closing: how fast the camera gains on it, as a share of its own speed.
    """
    side = draws.choice((-1, 1))
    reach = max(part.sprite.extent[1] for part in parts)
    edge_px = (WIDTH if side > 0 else 0) - float(ego.centre(np.array([t]))[0])
    x = edge_px * z / FOCAL_PX + side * reach
    vx, vz = -side * speed, -closing * ego.speed
    return Actor(parts, None, -side, t, x, z, vx, vz, rate=speed, drift=vz)


def _oncoming(
    draws: Draws, ego: Ego, t: float, parts: list[Part], left_m: tuple[float, float]
) -> Actor:
    x, vz = -draws.uniform(*left_m), -draws.uniform(3.0, 7.0) - ego.speed
    return Actor(parts, None, 1, t, x, HAZE_TO_M, 0.0, vz, drift=-ego.speed)


def _overtaking_car(draws: Draws, ego: Ego, t: float) -> Actor:
    """Passes the camera on either side and drives away ahead."""
    parts = figures.car_end(draws, rear=True)
    x = draws.choice((-1, 1)) * draws.uniform(2.7, 3.6)
    vz = draws.uniform(0.8, 2.5)
    return Actor(parts, None, 1, t, x, 4.0, -0.1 * x, vz, drift=-ego.speed)


def _roadside(draws: Draws, ego: Ego, seconds: float, classes: Sequence[str]) -> list[Actor]:
    """Clutter and, if cars are a class, parked ones: they stand still, so they come nearer."""
    actors = []
    z = 4.0
    while z < HAZE_TO_M + ego.speed * seconds:
        side = draws.choice((-1, 1))
        class_id, stuff = None, STUFF[0]
        if draws.chance(0.12) and "car" in classes:
            parts, x = figures.car_end(draws, rear=True), draws.uniform(3.0, 3.8)
            class_id = classes.index("car")
        else:
            figure = draws.choice(figures.CLUTTER)
            parts, x = figure(draws), draws.uniform(4.5, 8.0)
            stuff = "vegetation" if figure in figures.PLANTS else stuff
        actor = Actor(parts, class_id, 1, 0.0, side * x, z, 0.0, -ego.speed, stuff=stuff)
        actor.drift, actor.ego = -ego.speed, ego.clock
        actors.append(actor)
        z += draws.uniform(3.0, 6.0)
    return actors
