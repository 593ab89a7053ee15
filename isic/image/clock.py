"""Time of a training run: in total, per epoch, waiting for tiles, and since the last save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

#: Least seconds between saved states, and least ratio of training time to saving time.
SAVE_SECONDS = 5.0
SAVE_FACTOR = 20.0


class Clock:
    """Starts when it is created; `before` are the seconds of the run's earlier processes."""

    def __init__(self, before: float, step: int) -> None:
        self._before = before
        self._first_step = step
        self._start = self._saved = time.perf_counter()
        self._saving = 0.0
        self.restart_epoch()

    def restart_epoch(self) -> None:
        self._epoch = time.perf_counter()
        self._wait = 0.0

    def here(self) -> float:
        """Seconds of this process."""
        return time.perf_counter() - self._start

    def total(self) -> float:
        """Seconds of this and earlier processes."""
        return self._before + self.here()

    def waiting(self, source: Iterator[T]) -> Iterator[T]:
        """The items of `source`; the time to get them counts as waiting."""
        while True:
            start = time.perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            self._wait += time.perf_counter() - start
            yield item

    def epoch(self) -> tuple[float, float]:
        """(seconds of the epoch so far, seconds of it spent waiting for tiles)."""
        return max(1e-9, time.perf_counter() - self._epoch), self._wait

    def remaining(self, step: int, steps: int) -> float:
        """Estimated seconds from `step` to `steps` at the speed of this process."""
        return self.here() / max(1, step - self._first_step) * (steps - step)

    def save_due(self) -> bool:
        """Whether the state is to be saved now."""
        return time.perf_counter() - self._saved > max(SAVE_SECONDS, SAVE_FACTOR * self._saving)

    def saving(self, save: Callable[[], None]) -> None:
        """Call `save` and measure it."""
        start = time.perf_counter()
        save()
        self._saved = time.perf_counter()
        self._saving = self._saved - start
