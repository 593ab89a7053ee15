"""The run logger of a stage: it sends messages through a pipe to a process that calls MLflow.

Importing mlflow and opening its store take over two seconds of a core in each of some twenty stage
processes. The writer process (`isic.tracking.writer`) does both while the stage loads its own
libraries, and a slow or unavailable store does not delay the stage. When the stage dies, the pipe
closes and the writer marks the run KILLED, even after a SIGKILL.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isic.core.io import sha256_json
from isic.core.paths import Layout
from isic.core.tracker import NullTracker, Tracker
from isic.tracking.pipe import Pipe, warn
from isic.tracking.store import tracking_uri


@contextmanager
def open_run(
    family: str,
    config: Mapping[str, Any],
    name: str,
    fold: int | None = None,
    root: Path | None = None,
    trial: int | None = None,
    attach: bool = False,
) -> Iterator[Tracker]:
    """Open a run of stage family `family` with configuration `config` (JSON-able) and yield its
    tracker.

    With `fold` or `trial`, the run `name` is a child of the parent run of (family, hash of config);
    without, it is that parent. `attach` adds to the newest run of this identity instead of opening
    a new one. Under `mlflow run` all are children of the run it opened. An exception inside marks
    the run FAILED and propagates. Tracking errors never raise; they print one line to stderr.
    """
    root = Path(root).resolve() if root is not None else Layout.find().root
    if importlib.util.find_spec("mlflow") is None:
        warn(
            "mlflow is not installed here, so this run is not tracked; its results are on disk as"
            " always"
        )
        yield NullTracker()
        return
    # The writer does not inherit the variable, or its runs would be merged into the one that
    # `mlflow run` opened.
    outer = os.environ.get("MLFLOW_RUN_ID")
    spec = {
        "family": family,
        "config": sha256_json(config),
        "name": name,
        "fold": fold,
        "outer": outer,
        "trial": trial,
        "attach": attach,
    }
    try:
        tracker = _PipeTracker(root, spec, config)
    except OSError as error:  # no space for files waiting to be sent
        warn(f"this run is not tracked ({error}); its results are on disk as always")
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
    """Open the parent run of (family, hash of config), for results over all folds such as the
    pooled pAUC.

    Closing a fold's run logs mean and sd over folds to it.
    """
    with open_run(family, config, f"{family}-{sha256_json(config)[:8]}", root=root) as tracker:
        yield tracker


class _PipeTracker:
    """A `Tracker` that sends messages to the writer process, one JSON line each."""

    _numbers = itertools.count()

    def __init__(self, root: Path, spec: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._number = next(self._numbers)
        self._spool = Path(tempfile.mkdtemp(prefix="isic-tracking-"))
        self._pipe = Pipe.shared()
        header = {"root": str(root), "uri": tracking_uri(root), "spool": str(self._spool)}
        dvc = {name: value for name, value in os.environ.items() if name in _DVC and value}
        self._send("start", **header, spec=spec, config=config, tags=dvc)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self._send(
            "metrics", values={name: float(value) for name, value in values.items()}, step=step
        )

    def params(self, values: Mapping[str, Any]) -> None:
        self._send("params", values={name: str(value) for name, value in values.items()})

    def tags(self, values: Mapping[str, str]) -> None:
        self._send("tags", values={name: str(value) for name, value in values.items()})

    def figure(self, figure: Any, name: str) -> None:
        try:
            target = self._new_folder() / Path(name).name
            figure.savefig(target, bbox_inches="tight")
        except Exception as error:  # a failed figure must not stop a training run
            warn(f"figure {name} could not be drawn ({type(error).__name__}: {error})")
            return
        folder = Path(name).parent.as_posix()
        self._send("artifact", path=str(target), folder="" if folder == "." else folder)

    def artifact(self, path: Path, folder: str = "") -> None:
        # Copied now: the caller may replace or delete the file before the writer reads it.
        path = Path(path)
        try:
            target = self._new_folder() / path.name
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                shutil.copy2(path, target)
        except OSError as error:
            warn(f"{path} could not be copied for tracking ({error})")
            return
        self._send("artifact", path=str(target), folder=folder)

    def dataset(self, path: Path, context: str) -> None:
        self._send("dataset", path=str(Path(path).resolve()), context=context)

    def model(self, name: str, files: Sequence[Path], tags: Mapping[str, str]) -> None:
        try:
            folder = self._new_folder()
            for file in files:
                shutil.copy2(file, folder)
        except OSError as error:
            warn(f"model {name} could not be copied for tracking ({error})")
            return
        self._send("model", name=name, path=str(folder), tags=dict(tags))

    def close(self, status: str) -> None:
        """Send the run's final status and wait briefly for its delivery."""
        self._send("end", status=status)
        if not self._pipe.wait_for(self._number):
            shutil.rmtree(self._spool, ignore_errors=True)

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._spool))

    def _send(self, operation: str, **content: Any) -> None:
        self._pipe.send({"op": operation, "run": self._number, **content})


_DVC = ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_STAGE")
