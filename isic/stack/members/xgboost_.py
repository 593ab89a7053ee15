"""XGBoost members, stored as XGBoost's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.stack.encoder import rows
from isic.stack.members.base import MemberTask
from isic.stack.members.xgboost_json import check_json

_FIXED: dict[str, Any] = {
    "objective": "binary:logistic",
    "tree_method": "hist",
    "nthread": 1,
    "verbosity": 0,
}


class XGBoost:
    """See `Library`."""

    suffix = ".json"

    def train(self, task: MemberTask) -> xgb.Booster:
        data = xgb.QuantileDMatrix(
            rows(task.pool.columns, task.index),
            label=task.pool.target[task.index],
            feature_names=list(task.pool.columns),
            max_bin=task.pool.max_bin,
            nthread=1,
        )
        settings = {**task.params, **_FIXED, "max_bin": task.pool.max_bin, "seed": task.seed}
        if task.early_stopping is None:
            return xgb.train(settings, data, num_boost_round=task.rounds)

        booster = xgb.Booster(settings, [data])
        held_out = rows(task.pool.columns, task.early_stopping.index)
        scores: list[float] = []
        best = 0
        for iteration in range(task.rounds):
            booster.update(data, iteration)
            scores.append(task.early_stopping.pauc(self.log_odds(booster, held_out)))
            best, stop = task.early_stopping.best(scores)
            if stop:
                break
        return booster[:best]

    def log_odds(self, model: xgb.Booster, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(
            model.inplace_predict(matrix, predict_type="margin", validate_features=False),
            np.float64,
        )

    def contributions(self, model: xgb.Booster, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        data = xgb.DMatrix(matrix, feature_names=model.feature_names, nthread=1)
        return np.asarray(model.predict(data, pred_contribs=True), np.float64)

    def save(self, model: xgb.Booster, path: Path) -> None:
        model.save_model(path)

    def load(self, path: Path, columns: Sequence[str]) -> xgb.Booster:
        try:
            checked = check_json(path.read_bytes(), columns)
            return xgb.Booster({"nthread": 1}, model_file=checked)
        except (ValueError, xgb.core.XGBoostError) as error:
            raise InputError(
                f"{path} is not an XGBoost model of the columns of stack.json ({error}): rerun"
                " `dvc repro stack`"
            ) from error


LIBRARY = XGBoost()
