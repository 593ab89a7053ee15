"""XGBoost members, stored as its own JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.stack.encoder import rows
from isic.stack.members.base import EarlyStopping, Pool

_FIXED: dict[str, Any] = {"objective": "binary:logistic", "tree_method": "hist", "nthread": 1, "verbosity": 0}


class XGBoost:
    """See `Library`."""

    suffix = ".json"

    def train(
        self,
        pool: Pool,
        index: NDArray[np.int64],
        params: Mapping[str, Any],
        rounds: int,
        seed: int,
        watch: EarlyStopping | None = None,
    ) -> xgb.Booster:
        data = xgb.QuantileDMatrix(
            rows(pool.columns, index),
            label=pool.target[index],
            feature_names=list(pool.columns),
            max_bin=pool.max_bin,
            nthread=1,
        )
        settings = {**params, **_FIXED, "max_bin": pool.max_bin, "seed": seed}
        if watch is None:
            return xgb.train(settings, data, num_boost_round=rounds)
        booster = xgb.Booster(settings, [data])
        watched = rows(pool.columns, watch.index)
        scores: list[float] = []
        best = 0
        for number in range(rounds):
            booster.update(data, number)
            scores.append(watch.pauc(self.log_odds(booster, watched)))
            best, stop = watch.best(scores)
            if stop:
                break
        return booster[:best]

    def log_odds(self, model: xgb.Booster, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(model.inplace_predict(matrix, predict_type="margin", validate_features=False), np.float64)

    def gain(self, model: xgb.Booster, columns: Sequence[str]) -> NDArray[np.float64]:
        found = model.get_score(importance_type="total_gain")
        return np.array([found.get(name, 0.0) for name in columns], dtype=np.float64)

    def contributions(self, model: xgb.Booster, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        data = xgb.DMatrix(matrix, feature_names=model.feature_names, nthread=1)
        return np.asarray(model.predict(data, pred_contribs=True), np.float64)

    def save(self, model: xgb.Booster, path: Path) -> None:
        model.save_model(path)

    def load(self, path: Path, columns: Sequence[str]) -> xgb.Booster:
        try:
            model = xgb.Booster({"nthread": 1}, model_file=path)
        except xgb.core.XGBoostError as error:
            raise InputError(f"{path} is not an XGBoost model: rerun `dvc repro stack`") from error
        if model.feature_names != list(columns):
            raise InputError(f"{path} was trained on other columns than stack.json names: rerun `dvc repro stack`")
        return model


LIBRARY = XGBoost()
