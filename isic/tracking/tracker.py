"""The tracker a stage holds: it writes lines into a pipe, and MLflow is another process's business.

Importing mlflow and opening its store cost over two seconds of one core in each of some twenty stage processes. So a
helper process (`isic.tracking.writer`) pays them on the other core while the stage loads its own libraries, and a store
that is slow or down cannot hold the stage up. The stage's death closes the pipe, so even a SIGKILL ends as a run marked
KILLED.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isic.core.io import sha256_json
from isic.core.paths import Layout
from isic.core.tracker import NullTracker, Tracker
from isic.tracking.pipe import Pipe, say
from isic.tracking.store import tracking_uri


@contextmanager
def open_run(
    family: str, config: Mapping[str, Any], name: str, fold: int | None = None, root: Path | None = None
) -> Iterator[Tracker]:
    """A run of stage family `family` with configuration `config` (JSON-able), as a tracker to hand to a learner.

    With `fold`, a child called `name` of the parent of (family, hash of config); without, that parent itself. Under
    `mlflow run` both lie under the run it opened. An exception inside marks the run FAILED and passes on. Trouble with
    tracking never raises: it is one line on stderr.
    """
    layout = Layout(Path(root).resolve()) if root is not None else Layout.find()
    if importlib.util.find_spec("mlflow") is None:
        say("mlflow is not installed here, so this run is not tracked; its results are on disk as always")
        yield NullTracker()
        return
    # The writer does not inherit the variable: with it, every run below would join the one `mlflow run` opened.
    outer = os.environ.get("MLFLOW_RUN_ID")
    spec = {"family": family, "config": sha256_json(config), "name": name, "fold": fold, "outer": outer}
    try:
        tracker = PipeTracker(layout, spec, config)
    except OSError as error:  # no room for what waits to be sent
        say(f"this run is not tracked ({error}); its results are on disk as always")
        yield NullTracker()
        return
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


class PipeTracker:
    """A `Tracker` whose notes go to the writer process, one JSON line each."""

    _numbers = itertools.count()

    def __init__(self, layout: Layout, spec: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._number = next(self._numbers)
        self._spool = Path(tempfile.mkdtemp(prefix="isic-tracking-"))
        self._pipe = Pipe.shared()
        header = {"root": str(layout.root), "uri": tracking_uri(layout.root), "spool": str(self._spool)}
        dvc = {name: value for name, value in os.environ.items() if name in _DVC and value}
        self._send("start", **header, spec=spec, config=config, tags=dvc)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self._send("metrics", values={name: float(value) for name, value in values.items()}, step=step)

    def params(self, values: Mapping[str, Any]) -> None:
        self._send("params", values={name: str(value) for name, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        self._send("tags", values={name: str(value) for name, value in values.items()})

    def figure(self, figure: Any, name: str) -> None:
        try:
            target = self._slot() / Path(name).name
            figure.savefig(target, bbox_inches="tight")
        except Exception as error:  # a picture is never worth a training run
            say(f"figure {name} could not be drawn ({type(error).__name__}: {error})")
            return
        folder = Path(name).parent.as_posix()
        self._send("artifact", path=str(target), folder="" if folder == "." else folder)

    def artifact(self, path: Path, folder: str = "") -> None:
        # Copied now: the caller may replace or delete the file before the writer gets to it.
        path = Path(path)
        try:
            target = self._slot() / path.name
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copy2(path, target)
        except OSError as error:
            say(f"{path} could not be copied for tracking ({error})")
            return
        self._send("artifact", path=str(target), folder=folder)

    def close(self, status: str) -> None:
        """Say how the run ended and give the writer a moment to pass it on."""
        self._send("end", status=status)
        if not self._pipe.wait_for(self._number):
            shutil.rmtree(self._spool, ignore_errors=True)

    def _slot(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._spool))

    def _send(self, operation: str, **content: Any) -> None:
        self._pipe.send({"op": operation, "run": self._number, **content})


_DVC = ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_STAGE")
