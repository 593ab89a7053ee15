"""Interface of the member libraries: train on some rows, return log-odds, save and load a portable
format.

Small models gain little from threads and slow down on shared cores, so each model has one thread
and several models are trained at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isic.core.metric import pauc
from isic.core.parallel import workers
from isic.stack.encoder import Columns, rows

#: Rows scored at a time: bounds memory.
_CHUNK = 16_384


@dataclass
class Pool:
    """Training rows of all members. LightGBM bins them once, the others once per model."""

    columns: Columns
    target: NDArray[np.int64]
    max_bin: int
    #: Groups of column names that a search switches on and off; by default one group of all.
    groups: Sequence[Sequence[str]] = field(default_factory=list)
    #: A pool with the first columns and their bins.
    base: Pool | None = None
    #: Library name -> the library's prepared columns, computed once.
    prepared: dict[str, Any] = field(default_factory=dict)

    def extended(self, more: Columns, groups: Sequence[Sequence[str]]) -> Pool:
        """This pool with further columns in these groups; only the further columns are binned."""
        return Pool(self.columns | more, self.target, self.max_bin, groups, base=self)


@dataclass(frozen=True)
class EarlyStopping:
    """Rows kept out of a member's training; their pAUC decides its number of trees."""

    index: NDArray[np.int64]
    target: NDArray[np.int64]
    patience: int

    def pauc(self, margins: ArrayLike) -> float:
        """pAUC of the margins (n,) of the watched rows."""
        return pauc(self.target, margins)

    def best(self, scores: Sequence[float]) -> tuple[int, bool]:
        """Number of trees with the best score (the fewest among equals), and whether to stop."""
        best = int(np.argmax(scores)) + 1
        return best, len(scores) - best >= self.patience


@dataclass(frozen=True)
class MemberTask:
    """One model to train: pool, rows (sorted, m), parameters under the library's names, trees and
    seed.
    """

    pool: Pool
    index: NDArray[np.int64]
    params: Mapping[str, Any]
    rounds: int
    seed: int
    early_stopping: EarlyStopping | None = None


class Library(Protocol):
    """One gradient-boosting library. Equal arguments give equal models on any number of cores."""

    suffix: str

    def train(self, task: MemberTask) -> Any:
        """A model of `task.rounds` trees, or of the best number of trees with early stopping."""

    def log_odds(self, model: Any, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Raw margin of each row of `matrix` (rows, columns), columns in training order."""

    def contributions(self, model: Any, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """SHAP values (rows, columns + 1); each row sums to its log-odds, the last column is the
        average lesion's.
        """

    def save(self, model: Any, path: Path) -> None: ...

    def load(self, path: Path, columns: Sequence[str]) -> Any:
        """Read a model; InputError when it is broken or was trained on other columns."""


def log_odds(
    models: Sequence[tuple[Library, Any]], columns: Columns, index: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Log-odds of each model for the chosen rows, (models, rows) float64."""
    scores = np.empty((len(models), len(index)))
    with ThreadPoolExecutor(workers()) as pool:
        for start in range(0, len(index), _CHUNK):
            matrix = rows(columns, index[start : start + _CHUNK])
            scored = [pool.submit(library.log_odds, model, matrix) for library, model in models]
            scores[:, start : start + _CHUNK] = np.stack([future.result() for future in scored])
    return scores
