"""The tracker a stage holds: it writes lines into a pipe and never waits for MLflow.

Importing mlflow and opening its store cost about two seconds of one core in each of some twenty stage processes. So a
helper process (`isic.tracking.writer`) pays them on the other core while the stage loads its own libraries, and a store
that is slow or down cannot hold the stage up. The stage's death closes the pipe, so even a SIGKILL ends as a run marked
KILLED.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import isic
from isic.core.io import sha256_json
from isic.core.paths import Layout
from isic.core.tracker import NullTracker, Tracker

#: Seconds a finished stage waits for its last lines to arrive before it leaves them to the writer alone.
PATIENCE = 15.0


@contextmanager
def open_run(
    family: str, config: Mapping[str, Any], name: str, fold: int | None = None, root: Path | None = None
) -> Iterator[Tracker]:
    """A run of stage family `family` with configuration `config` (JSON-able), as a tracker to hand to a learner.

    With `fold`, a child called `name` of the parent of (family, hash of config); without, that parent itself. Under
    `mlflow run` both lie under the run it opened. An exception inside marks the run FAILED and passes on. Trouble with
    tracking never raises: it is one line on stderr.
    """
    layout = Layout(Path(root)) if root is not None else Layout.find()
    # Left in place, it would make every run of every process below join the one that `mlflow run` opened.
    outer = os.environ.get("MLFLOW_RUN_ID")
    if importlib.util.find_spec("mlflow") is None:
        say("mlflow is not installed here, so this run is not tracked; its results are on disk as always")
        yield NullTracker()
        return
    header = {
        "root": str(layout.root),
        "spec": {"family": family, "config": sha256_json(config), "name": name, "fold": fold, "outer": outer},
        "config": config,
    }
    tracker = PipeTracker(header)
    try:
        yield tracker
    except BaseException:
        tracker.close("FAILED")
        raise
    tracker.close("FINISHED")


@contextmanager
def parent(family: str, config: Mapping[str, Any], root: Path | None = None) -> Iterator[Tracker]:
    """The parent run of (family, hash of config), for what belongs to all folds, such as the pooled out-of-fold score.

    Mean and sd over folds are logged there by the folds themselves.
    """
    with open_run(family, config, f"{family}-{sha256_json(config)[:8]}", root=root) as tracker:
        yield tracker


def say(line: str) -> None:
    """One line about tracking on stderr; stdout belongs to the stage."""
    sys.stderr.write(f"isic: tracking: {line}\n")


class PipeTracker:
    """A `Tracker` whose notes go to a writer process, one JSON line each."""

    def __init__(self, header: dict[str, Any]) -> None:
        self._spool = Path(tempfile.mkdtemp(prefix="isic-tracking-"))
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        try:
            self._process = _start_writer()
        except OSError as error:
            say(f"cannot start the writer process ({error}); this run is not tracked, its results are on disk")
        self._send(header | {"spool": str(self._spool)})

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self._send({"op": "metrics", "values": {name: float(value) for name, value in values.items()}, "step": step})

    def params(self, values: Mapping[str, Any]) -> None:
        self._send({"op": "params", "values": {name: str(value) for name, value in values.items()}})

    def tags(self, values: Mapping[str, str]) -> None:
        self._send({"op": "tags", "values": {name: str(value) for name, value in values.items()}})

    def figure(self, figure: Any, name: str) -> None:
        target = self._slot() / Path(name).name
        try:
            figure.savefig(target, bbox_inches="tight")
        except Exception as error:  # a picture is never worth a training run
            say(f"figure {name} could not be drawn ({type(error).__name__}: {error})")
            return
        self._send({"op": "artifact", "path": str(target), "folder": _folder(name)})

    def artifact(self, path: Path, folder: str = "") -> None:
        # Copied now: the caller may replace or delete the file before the writer gets to it.
        path = Path(path)
        target = self._slot() / path.name
        try:
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copy2(path, target)
        except OSError as error:
            say(f"{path} could not be copied for tracking ({error})")
            return
        self._send({"op": "artifact", "path": str(target), "folder": folder})

    def close(self, status: str) -> None:
        """Say how the run ended and give the writer a moment to pass it on."""
        self._send({"op": "end", "status": status})
        process, self._process = self._process, None
        if process is None:
            shutil.rmtree(self._spool, ignore_errors=True)
            return
        assert process.stdin is not None
        try:
            process.stdin.close()
        except OSError:
            return
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            say("the store is slow; the last notes of this run are sent in the background")

    def _slot(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._spool))

    def _send(self, message: dict[str, Any]) -> None:
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
            say("the writer process is gone; this run is no longer tracked, its results are on disk")


def _folder(name: str) -> str:
    folder = Path(name).parent.as_posix()
    return "" if folder == "." else folder


def _start_writer() -> subprocess.Popen[str]:
    """The writer in a session of its own, so that Ctrl-C or a killed group leaves it time for a last word."""
    package_home = str(Path(isic.__file__).resolve().parent.parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_home, os.environ.get("PYTHONPATH", "")]))
    environment.pop("MLFLOW_RUN_ID", None)
    return subprocess.Popen(
        [sys.executable, "-m", "isic.tracking.writer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=environment,
        start_new_session=True,
    )
