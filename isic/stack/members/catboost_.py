"""CatBoost members, stored in CatBoost's binary format (.cbm), which is portable."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import catboost
import numpy as np
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.stack.encoder import rows
from isic.stack.members.base import EarlyStopping, MemberTask

# By default every fit leaves a catboost_info folder in the working directory.
_FIXED: dict[str, Any] = {
    "thread_count": 1,
    "logging_level": "Silent",
    "allow_writing_files": False,
}


#: Time limit of the check of one file.
_SECONDS = 60


class CatBoost:
    """See `Library`."""

    suffix = ".cbm"

    def train(self, task: MemberTask) -> catboost.CatBoost:
        pool, names = task.pool, list(task.pool.columns)
        data = catboost.Pool(
            rows(pool.columns, task.index),
            label=pool.target[task.index],
            feature_names=names,
            thread_count=1,
        )
        settings = {
            **task.params,
            **_FIXED,
            "loss_function": "Logloss",
            "iterations": task.rounds,
            "random_seed": task.seed,
            "border_count": pool.max_bin,
            "bootstrap_type": "Bernoulli",
        }
        model = catboost.CatBoost(settings).fit(data)
        if task.early_stopping is not None:
            held_out = rows(pool.columns, task.early_stopping.index)
            model.shrink(ntree_end=_best_trees(model, held_out, task.early_stopping))
        return model

    def log_odds(
        self, model: catboost.CatBoost, matrix: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        return np.asarray(
            model.predict(matrix, prediction_type="RawFormulaVal", thread_count=1), np.float64
        )

    def contributions(
        self, model: catboost.CatBoost, matrix: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        data = catboost.Pool(matrix, feature_names=model.feature_names_, thread_count=1)
        return np.asarray(
            model.get_feature_importance(data, type="ShapValues", thread_count=1), np.float64
        )

    def save(self, model: catboost.CatBoost, path: Path) -> None:
        model.save_model(str(path))

    def load(self, path: Path, columns: Sequence[str]) -> catboost.CatBoost:
        fault = _fault(path, columns)
        try:
            if not fault:
                return catboost.CatBoost().load_model(str(path))
        except catboost.CatBoostError as error:
            fault = str(error)
        raise InputError(
            f"{path} is not a CatBoost model of the columns of stack.json ({fault}): rerun"
            " `dvc repro stack`"
        )


def _fault(path: Path, columns: Sequence[str]) -> str:
    """What is wrong with the file of a model, "" if nothing is; see `catboost_check`."""
    models = sorted(path.parent.glob(f"*{path.suffix}"))
    states = tuple((model, model.stat().st_size, model.stat().st_mtime_ns) for model in models)
    faults = _check_all(states, tuple(columns))
    place = models.index(path)
    return faults[place] if place < len(faults) else "reading it, or the one before, has no end"


@lru_cache(maxsize=8)
def _check_all(models: tuple[tuple[Path, int, int], ...], columns: tuple[str, ...]) -> list[str]:
    """Faults of the models of a folder, which one process checks, up to the one that ended it."""
    script = Path(__file__).with_name("catboost_check.py")
    files = [str(path) for path, _, _ in models]
    command = [sys.executable, "-P", str(script), str(len(files)), *files, *columns]
    seconds = _SECONDS * (1 + len(files))
    with tempfile.TemporaryFile("w+") as output:
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                command, stdout=output, stderr=subprocess.DEVNULL, timeout=seconds, check=False
            )
        output.seek(0)
        return output.read().split("\n")[:-1]


def _best_trees(
    model: catboost.CatBoost, held_out: NDArray[np.float32], early_stopping: EarlyStopping
) -> int:
    # CatBoost passes scores to a Python metric as lists; staged predictions give the same result
    # faster.
    best, scores = 0, []
    for margins in model.staged_predict(held_out, prediction_type="RawFormulaVal", thread_count=1):
        scores.append(early_stopping.pauc(margins))
        best, stop = early_stopping.best(scores)
        if stop:
            break
    return best


LIBRARY = CatBoost()
