"""What a person sees of an epoch: a bar on a terminal, a line now and then in a log file."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm


class Progress:
    """Iterates over the batches of an epoch; silent unless `visible`."""

    def __init__(
        self, batches: Iterable[Any], title: str, total: int, first: int, visible: bool
    ) -> None:
        self._title, self._total, self._done = title, total, first
        self._plain = visible and not sys.stderr.isatty()
        self._bar = tqdm(
            batches,
            title,
            total,
            initial=first,
            unit="batch",
            leave=False,
            disable=self._plain or not visible,
        )
        self._said_at = time.monotonic()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._bar)

    def show(self, figures: str, every_s: float = 60.0) -> None:
        """Say how the epoch stands after another batch."""
        self._done += 1
        self._bar.set_postfix_str(figures, refresh=False)
        if self._plain and time.monotonic() - self._said_at > every_s:
            print(f"{self._title}: batch {self._done}/{self._total}, {figures}", flush=True)
            self._said_at = time.monotonic()


def summary(epoch: int, epochs: int, figures: dict[str, float]) -> str:
    """The line that ends an epoch."""
    parts = [f"{name} {value:.4g}" for name, value in figures.items()]
    return f"epoch {epoch + 1}/{epochs}: {', '.join(parts)}"
