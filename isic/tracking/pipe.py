"""The pipe from a stage to its writer process: opened at first use, shared by all runs of the
process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import isic

#: Seconds a finished run waits for the delivery of its last messages; then the writer continues
#: alone.
_PATIENCE = 15.0


def warn(line: str) -> None:
    """Print a line about tracking to stderr; stdout belongs to the stage."""
    sys.stderr.write(f"isic: tracking: {line}\n")


class Pipe:
    """Sends messages to the writer as lines; receives the numbers of runs it has finished."""

    _of_process: ClassVar[tuple[int, Pipe] | None] = None

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: dict[int, threading.Event] = {}
        self._patient = True
        self._process: subprocess.Popen[str] | None = None
        try:
            self._process = _start_writer()
        except OSError as error:
            warn(
                f"cannot start the writer process ({error}); this stage is not tracked, its results"
                " are on disk"
            )
            return
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    @classmethod
    def shared(cls) -> Pipe:
        """This process's pipe; a forked child opens its own."""
        if (
            cls._of_process is None
            or cls._of_process[0] != os.getpid()
            or cls._of_process[1]._process is None
        ):
            cls._of_process = (os.getpid(), cls())
        return cls._of_process[1]

    def send(self, message: dict[str, Any]) -> None:
        """Send a message with the time in ms; a broken pipe is reported once, then ignored."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        line = json.dumps(message | {"time": int(time.time() * 1000)}, default=str)
        try:
            with self._lock:
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()
        except OSError:
            self._process = None
            warn(
                "the writer process is gone; this stage is no longer tracked, its results are on"
                " disk"
            )

    def wait_for(self, run: int) -> bool:
        """Wait until the writer has finished a run; False when the writer has died."""
        if self._process is None:
            return False
        if self._patient and not self._event(run).wait(_PATIENCE):
            # Once per process: with a hanging store, only the first run waits.
            self._patient = False
            warn(
                "the store is slow: the last messages are sent in the background after this stage,"
                " and a line here names what cannot be; its results are on disk"
            )
        return True

    def _event(self, run: int) -> threading.Event:
        with self._lock:
            return self._done.setdefault(run, threading.Event())

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._event(int(line)).set()
        self._process = None
        with self._lock:
            for event in self._done.values():
                event.set()


def _start_writer() -> subprocess.Popen[str]:
    """Start the writer in its own session, so that it survives Ctrl-C or a killed group and can
    close the runs.
    """
    package_home = str(Path(isic.__file__).resolve().parent.parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [package_home, os.environ.get("PYTHONPATH", "")])
    )
    environment.pop("MLFLOW_RUN_ID", None)
    return subprocess.Popen(
        [sys.executable, "-m", "isic.tracking.writer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
