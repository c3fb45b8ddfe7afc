"""numba's `njit(cache=True)` that also works where nothing can be written."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Compiled = TypeVar("Compiled", bound=Callable[..., Any])


def compiled(**options: Any) -> Callable[[Compiled], Compiled]:
    """numba.njit with a cache on disk; without one where neither checkout nor home is writable.

    numba looks for its place when a function is decorated, and raises RuntimeError if it has none.
    """

    def decorate(function: Compiled) -> Compiled:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:
            return numba.njit(**options)(function)

    return decorate
