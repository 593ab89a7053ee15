"""Locks between the processes of a machine: files that the kernel unlocks when their holder ends, however it ends."""

from __future__ import annotations

import fcntl
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def locked(path: Path, patience: float = math.inf, shared: bool = False) -> Iterator[bool]:
    """Hold the lock file `path`, which is made if absent; with `shared`, together with others that hold it so.

    Yields whether it was had within `patience` seconds: 0 asks once, infinity waits for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        yield _take(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, patience)


def _take(stream: IO[str], kind: int, patience: float) -> bool:
    if patience == math.inf:
        fcntl.flock(stream, kind)
        return True
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(stream, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.5)
        else:
            return True
