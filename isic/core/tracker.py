"""Interface of run loggers: MLflow in the pipeline, none on a machine without a tracking server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

#: Context of a data set of out-of-fold scores.
OOF = "oof"


class Tracker(Protocol):
    """Run logger. Methods never raise when the tracking server is unavailable."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def params(self, values: Mapping[str, Any]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def figure(self, figure: Any, name: str) -> None:
        """`figure` is a matplotlib Figure, `name` an artifact path such as "curves/loss.png"."""

    def artifact(self, path: Path, folder: str = "") -> None: ...

    def dataset(self, path: Path, context: str) -> None:
        """Log the file or folder `path` as an input of the run; `context` is "train" or "oof"."""

    def model(self, name: str, files: Sequence[Path], tags: Mapping[str, str]) -> None:
        """Log a model of this run, unless the run has one; later metrics are also logged to the
        model.

        `files` describe it; the weights are not copied.
        """


class NullTracker:
    """Logs nothing."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        pass

    def params(self, values: Mapping[str, Any]) -> None:
        pass

    def tags(self, values: Mapping[str, str]) -> None:
        pass

    def figure(self, figure: Any, name: str) -> None:
        pass

    def artifact(self, path: Path, folder: str = "") -> None:
        pass

    def dataset(self, path: Path, context: str) -> None:
        pass

    def model(self, name: str, files: Sequence[Path], tags: Mapping[str, str]) -> None:
        pass
