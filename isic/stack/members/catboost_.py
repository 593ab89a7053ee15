"""CatBoost members, stored in CatBoost's binary format (.cbm), which is portable."""

from __future__ import annotations

from collections.abc import Sequence
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
        model = catboost.CatBoost()
        try:
            model.load_model(str(path))
        except catboost.CatBoostError as error:
            raise InputError(f"{path} is not a CatBoost model: rerun `dvc repro stack`") from error
        if model.feature_names_ != list(columns):
            raise InputError(
                f"{path} was trained on other columns than stack.json names: rerun `dvc repro"
                " stack`"
            )
        return model


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
