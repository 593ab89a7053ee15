"""The writer process of a stage: reads its trackers' messages and logs them to MLflow.

`pipe` runs `python -m isic.tracking.writer`. Messages that cannot be delivered are kept and
retried; at the end the rest is dropped with one line, since every result is on disk.
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
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from isic.core.errors import redact
from isic.core.tracker import OOF
from isic.tracking.pipe import warn
from isic.tracking.store import short_reason

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Message = dict[str, Any]

#: Seconds over which messages are collected into one request.
_GATHER = 1.0
#: Seconds between heartbeats of a run.
_BEAT = 120.0
#: Seconds between attempts while the store is down.
_RETRY = 30.0
#: MLflow's limits on metrics, parameters and tags in one batch.
_BATCH_ROWS = {"metrics": 1000, "params": 100, "tags": 100}


class _RunLog:
    """The undelivered messages of one run."""

    def __init__(self, header: Message) -> None:
        from isic.tracking.runs import RunSpec, flatten

        self.header = header
        self.root = Path(header["root"])
        self.spec = RunSpec(**header["spec"])
        self.params = flatten(header["config"])
        # A trial has parameters of its own.
        own = self.params if self.spec.trial is None else {}
        self.waiting: list[Message] = [{"op": "params", "values": own, "time": header["time"]}]
        self.status = ""
        self._id = ""
        self._model = ""
        self._beat_at = 0.0
        #: Name and digest of the out-of-fold data set, once it is logged.
        self._scored: tuple[str, ...] = ()
        #: Metrics that an attached run has: the same values are not logged again.
        self._known: dict[str, float] = {}

    def deliver(self, client: MlflowClient) -> None:
        """Send the waiting messages and the final status. Raises what the store raises; call again
        to resume.
        """
        from isic.tracking.runs import finish, start

        if not self._id:
            stage = self.header["tags"].get("DVC_STAGE", self.spec.stage)
            # The stages evaluate and report add to the stacker's run, which another stage made.
            owner = stage.split("@")[0] == self.spec.stage.split("@")[0]
            self._id = start(
                client, self.root, self.spec, cache(self._provenance), self.params, owner
            )
            run = client.get_run(self._id)
            if self.spec.fold is not None and run.outputs and run.outputs.model_outputs:
                self._model = run.outputs.model_outputs[-1].model_id
                self._known = dict(run.data.metrics) if self.spec.attach else {}
        self._deliver_model(client)
        self._deliver_datasets(client)
        for kind in _BATCH_ROWS:
            self._deliver_batch(client, kind)
        while self.waiting:
            self._deliver_artifact(client, self.waiting[0])
            self.waiting.pop(0)
        if self.status:
            finish(client, self.root, self.spec, self._id, self.status)

    def beat(self, client: MlflowClient) -> None:
        """Record that this process lives; a run that ended needs no heartbeat."""
        from isic.tracking.runs import beat

        if self._id and not self.status and time.monotonic() >= self._beat_at:
            beat(client, self._id)
            self._beat_at = time.monotonic() + _BEAT

    @property
    def known(self) -> bool:
        """Whether the store has created this run."""
        return bool(self._id)

    def close(self) -> None:
        """Remove the copies of artifacts."""
        shutil.rmtree(self.header["spool"], ignore_errors=True)

    def _provenance(self) -> dict[str, str]:
        from isic.tracking.context import run_tags
        from isic.tracking.inputs import stage_inputs

        tags = run_tags(self.root) | self.header["tags"]
        inputs = stage_inputs(self.root, self.spec.stage) if self.spec.stage else ""
        return tags | ({"stage_inputs": inputs} if inputs else {})

    def _deliver_model(self, client: MlflowClient) -> None:
        """Create the run's model before its metrics, which are the model's too."""
        from mlflow.entities import LoggedModelOutput

        for message in [message for message in self.waiting if message["op"] == "model"]:
            if not self._model:
                experiment = client.get_run(self._id).info.experiment_id
                model = client.create_logged_model(
                    experiment, message["name"], self._id, message["tags"], self.params, "network"
                )
                client.log_model_artifacts(model.model_id, message["path"])
                client.finalize_logged_model(model.model_id, "READY")
                client.log_outputs(self._id, [LoggedModelOutput(model.model_id, 0)])
                self._model = model.model_id
            self.waiting.remove(message)

    def _deliver_datasets(self, client: MlflowClient) -> None:
        """Log the data sets before the metrics: a model's metrics name their out-of-fold scores."""
        from isic.tracking.datasets import dataset_input

        for message in [message for message in self.waiting if message["op"] == "dataset"]:
            path = Path(message["path"])
            if path.exists():
                found = dataset_input(self.root, path, message["context"])
                with _Refusals(self.spec.name):
                    client.log_inputs(self._id, [found])
                    if message["context"] == OOF:
                        self._scored = (found.dataset.name, found.dataset.digest)
            else:
                warn(f"{path} is gone, so it is no data set of run {self.spec.name}")
            self.waiting.remove(message)

    def _deliver_batch(self, client: MlflowClient, kind: str) -> None:
        messages = [message for message in self.waiting if message["op"] == kind]
        entities = _entities(kind, messages, self._model, self._scored if self._model else ())
        if kind == "metrics":
            entities = [item for item in entities if self._known.get(item.key) != item.value]
        # Logging the same metric step, parameter or tag twice changes nothing: an interrupted batch
        # can be repeated.
        for begin in range(0, len(entities), _BATCH_ROWS[kind]):
            part = {kind: entities[begin : begin + _BATCH_ROWS[kind]]}
            with _Refusals(self.spec.name):
                client.log_batch(self._id, **part)
        self.waiting = [message for message in self.waiting if message["op"] != kind]

    def _deliver_artifact(self, client: MlflowClient, message: Message) -> None:
        with _Refusals(self.spec.name):
            client.log_artifact(self._id, message["path"], message["folder"] or None)


class _Refusals:
    """Drop messages that MLflow refuses as invalid, with a warning: a retry would fail again."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        refused = getattr(error, "error_code", "") in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
        if refused and error is not None:
            warn(f"MLflow refused a message of run {self.name}: {short_reason(error)}")
        return refused


class _Writer:
    """All runs of one stage process, and the time of the next retry."""

    def __init__(self) -> None:
        self.runs: dict[int, _RunLog] = {}
        self._clients: dict[str, MlflowClient] = {}
        self._retry_at = 0.0
        self._warned = False

    def take(self, message: Message) -> None:
        """Queue a message of the stage."""
        if message["op"] == "start":
            self.runs[message["run"]] = _RunLog(message)
        elif message["op"] == "end":
            self.runs[message["run"]].status = message["status"]
        else:
            self.runs[message["run"]].waiting.append(message)

    def deliver(self, last: bool = False) -> None:
        """Deliver the waiting messages; after a failure at most every _RETRY seconds, except for the
        `last` attempt.
        """
        if last or time.monotonic() >= self._retry_at:
            try:
                for number, run in list(self.runs.items()):
                    run.deliver(self._client(run))
                    run.beat(self._client(run))
                    if run.status:
                        run.close()
                        del self.runs[number]
                        _done(number)
            except Exception as error:  # no tracking error may reach the stage
                self._retry_at = time.monotonic() + _RETRY
                self._warn_once(error)
        for number, run in self.runs.items():
            if run.status:
                _done(number)

    def abandon(self) -> None:
        """After the end of the stage: mark its open runs KILLED, retry, drop the rest."""
        for run in self.runs.values():
            run.status = run.status or "KILLED"
        # A store that worked before may be restarting; one that never worked is tried once.
        attempts = 4 if any(run.known for run in self.runs.values()) else 1
        for attempt in range(attempts):
            if self.runs:
                time.sleep(5.0 * attempt)
                self.deliver(last=True)
        for run in self.runs.values():
            run.close()

    def _client(self, run: _RunLog) -> MlflowClient:
        from isic.tracking.store import connect

        uri = run.header["uri"]
        if uri not in self._clients:
            self._clients[uri] = connect(run.root, uri)
        return self._clients[uri]

    def _warn_once(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        where = redact(next(iter(self.runs.values())).header["uri"])
        warn(
            f"cannot log to the MLflow store at {where} ({short_reason(error)}); "
            "the stage continues and its results are on disk"
        )


def _entities(kind: str, messages: list[Message], model: str, scored: tuple[str, ...]) -> list[Any]:
    """MLflow's entities of the messages; metrics are also of `model`, on the data set `scored`."""
    from mlflow.entities import Metric, Param, RunTag

    if kind == "metrics":
        return [
            Metric(name, value, message["time"], message["step"] or 0, model or None, *scored)
            for message in messages
            for name, value in message["values"].items()
        ]
    make = Param if kind == "params" else RunTag
    # The last value of a name wins; MLflow refuses a batch with two values of one parameter.
    merged = {name: value for message in messages for name, value in message["values"].items()}
    return [make(name, value) for name, value in merged.items()]


#: Read by the stage: the standard output this process started with (`main`).
_answers: TextIO = sys.stdout


def _done(number: int) -> None:
    global _answers
    try:
        _answers.write(f"{number}\n")
        _answers.flush()
    except OSError:  # the stage is gone
        _answers = open(os.devnull, "w")  # noqa: PTH123, SIM115 (kept to the end of the process)


def _read(lines: queue.Queue[Message | None]) -> None:
    for line in sys.stdin:
        lines.put(json.loads(line))
    lines.put(None)


def _gather(lines: queue.Queue[Message | None]) -> list[Message | None]:
    """Wait for a message and collect those within _GATHER seconds, up to one that is no metric;
    none when a heartbeat is due first.
    """
    try:
        messages = [lines.get(timeout=_BEAT)]
    except queue.Empty:
        return []
    until = time.monotonic() + _GATHER
    while messages[-1] is not None and messages[-1]["op"] == "metrics":
        try:
            messages.append(lines.get(timeout=max(0.0, until - time.monotonic())))
        except queue.Empty:
            break
    return messages


def main() -> None:
    """Serve one stage process from stdin until it ends."""
    # The stage reads run numbers from stdout, and MLflow prints the URL of a server's run there.
    sys.stdout = sys.stderr
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(5)
    lines: queue.Queue[Message | None] = queue.Queue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    writer = _Writer()
    try:
        while True:
            for message in _gather(lines):
                if message is None:
                    return
                writer.take(message)
            # Create a run as soon as it starts: it shows in the UI, and imports happen meanwhile.
            writer.deliver()
    finally:
        writer.abandon()


if __name__ == "__main__":
    main()
