"""Settings of few values, which their types list for help and for checks, and of least ones."""

from math import inf
from typing import Any, Literal, get_args, get_origin, get_type_hints


def refuse_unknown_choices(settings: Any) -> None:
    """ValueError for a field of a dataclass that is none of the values of its `Literal`."""
    for name, kind in get_type_hints(type(settings)).items():
        if get_origin(kind) is Literal and getattr(settings, name) not in get_args(kind):
            found = f"{name} is {getattr(settings, name)!r}"
            raise ValueError(f"{found}, expected one of {', '.join(get_args(kind))}")


def refuse_below(least: int, settings: Any, *names: str, prefix: str = "") -> None:
    """ValueError for a field of a dataclass that is less, or not finite; None will do.

    prefix: of the field's name, as the user wrote it.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not least <= value < inf:
            finite = "" if value < least else ", finite"
            raise ValueError(f"{prefix}{name} is {value}, expected {least} or more{finite}")
