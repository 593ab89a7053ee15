"""CatBoost members, stored as its own binary format (.cbm), which it reads on any platform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import catboost
import numpy as np
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.stack.encoder import rows
from isic.stack.members.base import EarlyStopping, Pool

# Without `allow_writing_files` off, every fit leaves a catboost_info folder in the working directory.
_FIXED: dict[str, Any] = {"thread_count": 1, "logging_level": "Silent", "allow_writing_files": False}


class CatBoost:
    """See `Library`."""

    suffix = ".cbm"

    def train(
        self,
        pool: Pool,
        index: NDArray[np.int64],
        params: Mapping[str, Any],
        rounds: int,
        seed: int,
        watch: EarlyStopping | None = None,
    ) -> catboost.CatBoost:
        names = list(pool.columns)
        data = catboost.Pool(rows(pool.columns, index), label=pool.target[index], feature_names=names, thread_count=1)
        settings = {
            **params,
            **_FIXED,
            "loss_function": "Logloss",
            "iterations": rounds,
            "random_seed": seed,
            "border_count": pool.max_bin,
            "bootstrap_type": "Bernoulli",
        }
        model = catboost.CatBoost(settings).fit(data)
        if watch is not None:
            model.shrink(ntree_end=_best_trees(model, rows(pool.columns, watch.index), watch))
        return model

    def log_odds(self, model: catboost.CatBoost, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(model.predict(matrix, prediction_type="RawFormulaVal", thread_count=1), np.float64)

    def gain(self, model: catboost.CatBoost, columns: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(model.get_feature_importance(type="PredictionValuesChange"), np.float64)

    def contributions(self, model: catboost.CatBoost, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        data = catboost.Pool(matrix, feature_names=model.feature_names_, thread_count=1)
        return np.asarray(model.get_feature_importance(data, type="ShapValues", thread_count=1), np.float64)

    def save(self, model: catboost.CatBoost, path: Path) -> None:
        model.save_model(str(path))

    def load(self, path: Path, columns: Sequence[str]) -> catboost.CatBoost:
        model = catboost.CatBoost()
        try:
            model.load_model(str(path))
        except catboost.CatBoostError as error:
            raise InputError(f"{path} is not a CatBoost model: rerun `dvc repro stack`") from error
        if model.feature_names_ != list(columns):
            raise InputError(f"{path} was trained on other columns than stack.json names: rerun `dvc repro stack`")
        return model


def _best_trees(model: catboost.CatBoost, watched: NDArray[np.float32], watch: EarlyStopping) -> int:
    # CatBoost reports to Python metrics as lists, row by row; scoring the grown model in stages decides the same.
    best, scores = 0, []
    for margins in model.staged_predict(watched, prediction_type="RawFormulaVal", thread_count=1):
        scores.append(watch.pauc(margins))
        best, stop = watch.best(scores)
        if stop:
            break
    return best


LIBRARY = CatBoost()
