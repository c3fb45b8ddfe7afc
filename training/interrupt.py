"""Signals that ask a run to save and leave."""

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(Exception):
    """A signal asked the run to stop; it has been saved."""


class StopRequest:
    """`asked` turns true at a Ctrl-C, SIGTERM or SIGUSR1; a second Ctrl-C leaves at once."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
