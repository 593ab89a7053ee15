"""Locks between the processes of a machine: files that the kernel unlocks when their holder ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

#: What file systems without locks answer, some network and cloud drives among them.
_WITHOUT = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def locked(path: Path, patience: float = math.inf, shared: bool = False) -> Iterator[bool]:
    """Hold the lock file `path`, which is made if absent; with `shared`, together with others that hold it so.

    Yields whether it was had within `patience` seconds: 0 asks once, infinity waits for it. A file system without locks
    lets everybody in: a single process, the usual case there, is not kept from its work.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("w") as stream:
        try:
            mine = _take(stream, kind, patience)
        except OSError as error:
            if error.errno not in _WITHOUT:
                raise
            mine = True
        yield mine


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
