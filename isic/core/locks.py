"""File locks between processes of a machine. The kernel releases them when the process ends."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO

from isic.core.errors import InputError, printable
from isic.core.io import TEMPORARY

#: Errors of file systems without locks, such as some network and cloud drives.
_WITHOUT = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def locked(path: Path, patience: float = math.inf, shared: bool = False) -> Iterator[bool]:
    """Lock the file `path`, which is created if absent; `shared` locks exclude only exclusive ones.

    Yields whether the lock was acquired within `patience` seconds (0: one attempt, infinity: no
    limit). On a file system without locks it is always acquired, since usually a single process
    works there, and a note is printed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.open("w") as stream:
        try:
            acquired = _take(stream, kind, patience)
        except OSError as error:
            if error.errno not in _WITHOUT:
                raise
            _note_without(path.parent)
            acquired = True
        yield acquired


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Hold the output `out` and its cache; InputError when another process is writing it."""
    name = hashlib.sha256(os.fsencode(out.name)).hexdigest()[:16]
    lock = out.with_name(f"{TEMPORARY}{name}.lock")
    with locked(lock, patience=0) as mine:
        if not mine:
            raise InputError(f"another process is writing {out}: wait for it, or name another file")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


@lru_cache
def _note_without(folder: Path) -> None:
    """Once per folder and process."""
    sys.stderr.write(
        f"isic: note: {printable(str(folder))} is on a file system without locks: two processes or"
        " machines that write there at once would replace each other's files; run one at a time\n"
    )


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
