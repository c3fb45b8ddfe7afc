"""One run per output directory: a lock that the system lets go when its holder dies."""

import fcntl
import time
from pathlib import Path
from typing import IO

CLAIM = ".claim"
#: The workers of a killed run take a moment to end, and hold its claim until then.
PATIENCE_S = 3.0
POLL_S = 0.1


def claim(directory: Path) -> IO[bytes]:
    """Claim a directory until the returned file is closed, or the process dies however it dies.

    Raises ValueError if a living run holds it. On a file system without locks nothing is
    claimed: two runs there waste work, but each writes whole files under names of its own
    before it renames them.
    """
    file = (directory / CLAIM).open("ab")
    deadline = time.monotonic() + PATIENCE_S
    while not _lock(file):
        if time.monotonic() > deadline:
            file.close()
            found = "another run of `python -m preprocessing` is writing here"
            raise ValueError(f"{directory}: {found}, wait for it to end")
        time.sleep(POLL_S)
    return file


def _lock(file: IO[bytes]) -> bool:
    """Whether the file is ours now; True as well where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
