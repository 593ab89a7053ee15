"""The process behind a `PipeTracker`: reads its lines, talks to MLflow, and is the only one to suffer when that fails.

Run as `python -m isic.tracking.writer` by `tracker`. Notes that cannot be delivered are kept and tried again; what is
left at the end is dropped with one line, since every result is on disk already.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isic.core.paths import Layout
from isic.tracking.tracker import say

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Message = dict[str, Any]

#: Seconds over which notes are gathered into one request.
GATHER = 1.0
#: Seconds between attempts while the store is down.
RETRY = 30.0
#: Most metrics, parameters and tags that MLflow takes in one batch.
BATCH = {"metrics": 1000, "params": 100, "tags": 100}


class Writer:
    """Delivers the notes of one run, keeping what the store did not take."""

    def __init__(self, header: Message) -> None:
        self.header = header
        self.layout = Layout(Path(header["root"]))
        self.waiting: list[Message] = []
        self.status = "KILLED"
        self._client: MlflowClient | None = None
        self._run = ""
        self._told = False
        self._retry_at = 0.0

    def take(self, messages: list[Message], last: bool) -> None:
        """Add notes and deliver what waits; while the store is down, attempts are spaced out except for the last."""
        self.waiting.extend(messages)
        if not last and time.monotonic() < self._retry_at:
            return
        try:
            self._open()
            self._deliver()
            if last:
                self._finish()
        except Exception as error:  # whatever tracking throws, the stage must not notice
            self._retry_at = time.monotonic() + RETRY
            self._tell(error)

    def _open(self) -> None:
        if self._run:
            return
        from isic.tracking.context import run_tags
        from isic.tracking.runs import RunSpec, flatten, start
        from isic.tracking.store import connect

        if self._client is None:
            self._client = connect(self.layout.root)
        self._run = start(self._client, self.layout, RunSpec(**self.header["spec"]), run_tags(self.layout))
        self.waiting.insert(0, {"op": "params", "values": flatten(self.header["config"]), "time": 0})

    def _deliver(self) -> None:
        assert self._client is not None
        for kind, size in BATCH.items():
            mine = [message for message in self.waiting if message["op"] == kind]
            entities = _entities(kind, mine)
            for begin in range(0, len(entities), size):
                self._attempt(lambda c, part: c.log_batch(self._run, **part), {kind: entities[begin : begin + size]})
            self.waiting = [message for message in self.waiting if message["op"] != kind]
        while self.waiting:
            note = self.waiting[0]
            self._attempt(lambda c, n: c.log_artifact(self._run, n["path"], n["folder"] or None), note)
            self.waiting.pop(0)

    def _attempt(self, send: Any, what: Any) -> None:
        """Send; what the store refuses as invalid is dropped, for it would be refused again."""
        from mlflow.exceptions import MlflowException

        try:
            send(self._client, what)
        except MlflowException as error:
            if error.error_code not in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST"):
                raise
            say(f"MLflow refused a note of run {self.header['spec']['name']}: {_first_line(error)}")

    def _finish(self) -> None:
        from isic.tracking.runs import RunSpec, finish

        assert self._client is not None
        finish(self._client, self.layout, RunSpec(**self.header["spec"]), self._run, self.status)

    def _tell(self, error: Exception) -> None:
        if self._told:
            return
        self._told = True
        from isic.tracking.store import tracking_uri

        say(
            f"no MLflow store at {tracking_uri(self.layout.root)} ({_first_line(error)}); "
            "the stage goes on and its results are on disk, only the log of this run is incomplete"
        )


def _entities(kind: str, messages: list[Message]) -> list[Any]:
    from mlflow.entities import Metric, Param, RunTag

    if kind == "metrics":
        return [
            Metric(name, value, message["time"], message["step"] or 0)
            for message in messages
            for name, value in message["values"].items()
        ]
    make = Param if kind == "params" else RunTag
    # The last word on a name counts; MLflow refuses a batch that says two things about one parameter.
    merged = {name: value for message in messages for name, value in message["values"].items()}
    return [make(name, value) for name, value in merged.items()]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _read(lines: queue.Queue[Message | None]) -> None:
    for line in sys.stdin:
        lines.put(json.loads(line))
    lines.put(None)


def _gather(lines: queue.Queue[Message | None]) -> tuple[list[Message], str | None, bool]:
    """Wait for a note and take what comes within a moment: the notes, the final status if said, whether it ended."""
    messages: list[Message] = []
    message = lines.get()
    until = time.monotonic() + GATHER
    while message is not None:
        if message["op"] == "end":
            return messages, message["status"], True
        messages.append(message)
        try:
            message = lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            return messages, None, False
    return messages, None, True


def main() -> None:
    """Serve one run from stdin until its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    lines: queue.Queue[Message | None] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    header = lines.get()
    if header is None:
        return
    writer = Writer(header)
    # Opens the run at once: a person watching the UI sees it start, and the import is paid while the stage works.
    writer.take([], last=False)
    ended = False
    try:
        while not ended:
            messages, status, ended = _gather(lines)
            writer.status = status or writer.status
            writer.take(messages, last=ended)
    finally:
        shutil.rmtree(header["spool"], ignore_errors=True)


if __name__ == "__main__":
    main()
