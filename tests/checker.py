"""The runtime checker of shapes and types while tests run."""

from typing import Any

import beartype

#: An int is a float, as for mypy.
CHECK = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def checked(function: Any) -> Any:
    """beartype's check; settings are left alone: they say in a sentence what is wrong with them."""
    of_settings = "Config" in function.__qualname__ or function.__name__ == "check_single_arg"
    return function if of_settings else CHECK(function)
