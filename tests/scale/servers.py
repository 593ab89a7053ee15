"""Helpers for tests that start servers."""

from __future__ import annotations

import os
import socket


def free_port(together: int = 1) -> int:
    """The first of `together` neighbouring ports of the loopback that nobody listens on."""
    for first in range(21_000 + os.getpid() % 9000, 60_000, together):
        if all(_free(first + step) for step in range(together)):
            return first
    raise RuntimeError("no free ports")


def _free(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) != 0
