"""The process behind a stage's trackers: reads their lines, talks to MLflow, and alone suffers when that fails.

Run as `python -m isic.tracking.writer` by `pipe`. Notes that cannot be delivered are kept and tried again; what is left
at the end is dropped with one line, since every result is on disk already.
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
from typing import TYPE_CHECKING, Any, TextIO

from isic.core.errors import shown
from isic.core.paths import Layout
from isic.tracking.pipe import say

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Message = dict[str, Any]

#: Seconds over which notes are gathered into one request.
GATHER = 1.0
#: Seconds between attempts while the store is down.
RETRY = 30.0
#: Most metrics, parameters and tags that MLflow takes in one batch.
BATCH = {"metrics": 1000, "params": 100, "tags": 100}


class RunLog:
    """The notes of one run that are not delivered yet, and how to deliver them."""

    def __init__(self, header: Message) -> None:
        from isic.tracking.runs import RunSpec, flatten

        self.header = header
        self.root = Path(header["root"])
        self.spec = RunSpec(**header["spec"])
        self.waiting: list[Message] = [{"op": "params", "values": flatten(header["config"]), "time": header["time"]}]
        self.status = ""
        self._id = ""

    def deliver(self, client: MlflowClient) -> None:
        """Send what waits, and the end if it was said. Raises what the store raises; a further call goes on."""
        from isic.tracking.context import run_tags
        from isic.tracking.runs import finish, start

        if not self._id:
            self._id = start(client, self.root, self.spec, run_tags(Layout(self.root)) | self.header["tags"])
        for kind in BATCH:
            self._deliver_batch(client, kind)
        while self.waiting:
            self._deliver_artifact(client, self.waiting[0])
            self.waiting.pop(0)
        if self.status:
            finish(client, self.root, self.spec, self._id, self.status)

    @property
    def known(self) -> bool:
        """Whether the store has answered for this run."""
        return bool(self._id)

    def close(self) -> None:
        """Remove the copies of files that waited for delivery."""
        shutil.rmtree(self.header["spool"], ignore_errors=True)

    def _deliver_batch(self, client: MlflowClient, kind: str) -> None:
        entities = _entities(kind, [message for message in self.waiting if message["op"] == kind])
        # Said twice, a metric at one step, a parameter or a tag is what it was: a broken-off batch may start again.
        for begin in range(0, len(entities), BATCH[kind]):
            part = {kind: entities[begin : begin + BATCH[kind]]}
            with Refusals(self.spec.name):
                client.log_batch(self._id, **part)
        self.waiting = [message for message in self.waiting if message["op"] != kind]

    def _deliver_artifact(self, client: MlflowClient, note: Message) -> None:
        with Refusals(self.spec.name):
            client.log_artifact(self._id, note["path"], note["folder"] or None)


class Refusals:
    """What MLflow refuses as invalid is dropped with a line, for it would be refused again."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        refused = getattr(error, "error_code", "") in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
        if refused and error is not None:
            say(f"MLflow refused a note of run {self.name}: {_first_line(error)}")
        return refused


class Writer:
    """All runs of one stage process, and when to try the store again."""

    def __init__(self) -> None:
        self.runs: dict[int, RunLog] = {}
        self._clients: dict[str, MlflowClient] = {}
        self._retry_at = 0.0
        self._told = False

    def take(self, message: Message) -> None:
        """Note a line of the stage."""
        if message["op"] == "start":
            self.runs[message["run"]] = RunLog(message)
        elif message["op"] == "end":
            self.runs[message["run"]].status = message["status"]
        else:
            self.runs[message["run"]].waiting.append(message)

    def deliver(self, last: bool = False) -> None:
        """Deliver what waits. After a failure attempts are spaced out, except for the `last` one."""
        if last or time.monotonic() >= self._retry_at:
            try:
                for number, run in list(self.runs.items()):
                    run.deliver(self._client(run))
                    if run.status:
                        run.close()
                        del self.runs[number]
                        _done(number)
            except Exception as error:  # whatever tracking throws, the stage must not notice
                self._retry_at = time.monotonic() + RETRY
                self._tell(error)
        for number, run in self.runs.items():
            if run.status:
                _done(number)

    def abandon(self) -> None:
        """The stage has ended: mark what it left open as killed, try again, drop the rest."""
        for run in self.runs.values():
            run.status = run.status or "KILLED"
        # A store that has answered before may be restarting; one that never did is given a single chance.
        attempts = 4 if any(run.known for run in self.runs.values()) else 1
        for attempt in range(attempts):
            if self.runs:
                time.sleep(5.0 * attempt)
                self.deliver(last=True)
        for run in self.runs.values():
            run.close()

    def _client(self, run: RunLog) -> MlflowClient:
        from isic.tracking.store import connect

        uri = run.header["uri"]
        if uri not in self._clients:
            self._clients[uri] = connect(run.root, uri)
        return self._clients[uri]

    def _tell(self, error: Exception) -> None:
        if self._told:
            return
        self._told = True
        where = shown(next(iter(self.runs.values())).header["uri"])
        say(
            f"no MLflow store at {where} ({_first_line(error)}); "
            "the stage goes on and its results are on disk, only its log is incomplete"
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


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return shown(lines[0] if lines else type(error).__name__)[:200]


#: What the stage reads: the standard output this process started with (`main`).
_answers: TextIO = sys.stdout


def _done(number: int) -> None:
    global _answers
    try:
        _answers.write(f"{number}\n")
        _answers.flush()
    except OSError:  # nobody listens any more
        _answers = open(os.devnull, "w")  # noqa: PTH123, SIM115 (kept to the end of the process)


def _read(lines: queue.Queue[Message | None]) -> None:
    for line in sys.stdin:
        lines.put(json.loads(line))
    lines.put(None)


def _gather(lines: queue.Queue[Message | None]) -> list[Message | None]:
    """Wait for a note and take what comes within a moment, or up to the end of a run."""
    messages = [lines.get()]
    until = time.monotonic() + GATHER
    while messages[-1] is not None and messages[-1]["op"] == "metrics":
        try:
            messages.append(lines.get(timeout=max(0.0, until - time.monotonic())))
        except queue.Empty:
            break
    return messages


def main() -> None:
    """Serve one stage process from stdin until it ends."""
    # The stage reads numbers from our stdout; MLflow prints the address of a server's run there.
    sys.stdout = sys.stderr
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    lines: queue.Queue[Message | None] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    writer = Writer()
    try:
        while True:
            for message in _gather(lines):
                if message is None:
                    return
                writer.take(message)
            # A run is opened as soon as it starts: a person watching the UI sees it, and imports are paid meanwhile.
            writer.deliver()
    finally:
        writer.abandon()


if __name__ == "__main__":
    main()
