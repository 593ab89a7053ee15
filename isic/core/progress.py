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


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"
