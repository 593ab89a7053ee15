"""What a learner may say about a run, whoever listens: MLflow in the pipeline, nobody on a bare GPU box."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """A run that takes notes. No method may raise because the listener is gone."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def params(self, values: Mapping[str, Any]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def figure(self, figure: Any, name: str) -> None:
        """`figure` is a matplotlib Figure, `name` an artifact path such as "curves/loss.png"."""

    def artifact(self, path: Path, folder: str = "") -> None: ...


class NullTracker:
    """Takes no notes."""

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
