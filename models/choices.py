"""Settings of which each has a few values: their types list them, for help and for checks."""

from typing import Any, Literal, get_args, get_origin, get_type_hints


def refuse_unknown_choices(settings: Any) -> None:
    """ValueError for a field of a dataclass that is none of the values of its `Literal`."""
    for name, kind in get_type_hints(type(settings)).items():
        if get_origin(kind) is Literal and getattr(settings, name) not in get_args(kind):
            found = f"{name} is {getattr(settings, name)!r}"
            raise ValueError(f"{found}, expected one of {', '.join(get_args(kind))}")
