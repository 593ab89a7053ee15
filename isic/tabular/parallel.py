"""Columns in parallel threads: numpy and the compiled kernels release the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from isic.core.parallel import workers

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item] | Iterable[Item]
) -> list[Result]:
    """`function` of each item, in their order."""
    todo = list(items)
    if workers() == 1 or len(todo) < 2:
        return [function(item) for item in todo]
    with ThreadPoolExecutor(workers()) as pool:
        return list(pool.map(function, todo))
