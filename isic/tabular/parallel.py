"""Columns side by side on the cores at hand: numpy and the compiled kernels release the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def workers() -> int:
    """`OMP_NUM_THREADS` where it is set, like the libraries underneath, else the cores this process may use."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(function: Callable[[Item], Result], items: Sequence[Item] | Iterable[Item]) -> list[Result]:
    """`function` of each item, in their order."""
    todo = list(items)
    if workers() == 1 or len(todo) < 2:
        return [function(item) for item in todo]
    with ThreadPoolExecutor(workers()) as pool:
        return list(pool.map(function, todo))
