"""Lines about the steps of a task that takes more than some seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping


class StepProgress:
    """Print each step of a task to stderr as it starts, with the time left once a step is done.

    `steps` maps each step, in words, to its usual share of the time, on any scale. The time left
    assumes that the steps still to do run as slowly or as fast as those that are done.
    """

    def __init__(
        self,
        task: str,
        steps: Mapping[str, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._task, self._steps, self._clock = task, dict(steps), clock
        self._begun = clock()

    def start(self, step: str) -> None:
        """Announce `step`, one of the task's."""
        names = list(self._steps)
        index = names.index(step)
        done = sum(self._steps[name] for name in names[:index])
        left = sum(self._steps[name] for name in names[index:])
        text = f"{self._task}: {step} ({index + 1} of {len(names)})"
        if done:
            seconds = (self._clock() - self._begun) / done * left
            text += f", about {_duration(seconds)} left"
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


class CountProgress:
    """Print how much of a countable task is done, and the time left, every `_EVERY` seconds."""

    def __init__(self, task: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._task, self._clock = task, clock
        self._begun = self._printed = clock()
        self._first: float | None = None

    def update(self, done: float, total: float, text: str) -> None:
        """`done` of `total`, in any unit; `text` names what is done. The first call counts as work of
        an earlier run.
        """
        if self._first is None:
            self._first = done
        now = self._clock()
        if now - self._printed < _EVERY or done <= self._first:
            return
        self._printed = now
        left = (now - self._begun) / (done - self._first) * (total - done)
        sys.stderr.write(f"{self._task}: {text}, about {_duration(left)} left\n")
        sys.stderr.flush()


#: Seconds between two lines.
_EVERY = 5.0


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"
