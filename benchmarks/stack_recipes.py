"""Three ways to stack that the competition's repositories describe, written anew from FIELD's description of them.

Each takes the feature matrix (image logit included), target and folds, and returns out-of-fold scores. They are the
other side of `benchmarks/stack.py`: plain library calls, a fit per fold, no shared binning.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from catboost import CatBoostClassifier
from lightgbm import LGBMClassifier
from scipy.stats import rankdata
from xgboost import XGBClassifier

#: Parameter set A ("greysky", the base of the 1st, 3rd, 4th and 10th places). num_leaves 103 at depth 4 means 16.
LGB_A = {
    "learning_rate": 0.0323, "max_depth": 4, "num_leaves": 16, "colsample_bytree": 0.833, "subsample": 0.774,
    "subsample_freq": 4, "min_child_samples": 85, "reg_alpha": 0.0876, "reg_lambda": 0.004, "scale_pos_weight": 2.80,
    "feature_fraction_bynode": 0.403,
}  # fmt: skip
XGB_A = {
    "learning_rate": 0.085, "reg_lambda": 8.88, "reg_alpha": 0.678, "max_depth": 6, "subsample": 0.601,
    "colsample_bytree": 0.844, "colsample_bylevel": 0.548, "colsample_bynode": 0.993, "scale_pos_weight": 3.29,
    "tree_method": "hist",
}  # fmt: skip
CAT_A = {
    "learning_rate": 0.0694, "depth": 7, "l2_leaf_reg": 6.22, "bootstrap_type": "Bernoulli", "subsample": 0.625,
    "min_data_in_leaf": 24, "scale_pos_weight": 2.615, "logging_level": "Silent", "allow_writing_files": False,
}  # fmt: skip


def single(matrix: pd.DataFrame, target: np.ndarray, fold: np.ndarray, threads: int) -> np.ndarray:
    """One LightGBM per fold on all rows, the classes weighted."""
    score = np.empty(len(target))
    for number in np.unique(fold):
        train = fold != number
        weight = float((target[train] == 0).sum() / target[train].sum()) ** 0.5
        model = LGBMClassifier(
            **{**LGB_A, "scale_pos_weight": weight}, n_estimators=200, n_jobs=threads, verbosity=-1, random_state=0
        )
        model.fit(matrix[train], target[train])
        score[~train] = model.predict_proba(matrix[~train])[:, 1]
    return score


def bagged(
    matrix: pd.DataFrame, target: np.ndarray, fold: np.ndarray, threads: int, seeds: int = 5, image: str = "image_vit"
) -> np.ndarray:
    """Five LightGBM on 100 benign lesions per malignant one, rank-averaged with the image score (junaid)."""
    features = matrix.drop(columns=[name for name in matrix.columns if name.startswith("image_")])
    score = np.empty(len(target))
    for number in np.unique(fold):
        held_out = fold == number
        total = np.zeros(int(held_out.sum()))
        for seed in range(seeds):
            index = _undersample(target, ~held_out, 100, seed)
            model = LGBMClassifier(**LGB_A, n_estimators=200, n_jobs=threads, verbosity=-1, random_state=seed)
            model.fit(features.iloc[index], target[index])
            total += rankdata(model.predict_proba(features[held_out])[:, 1])
        score[held_out] = rankdata(total) / len(total) + rankdata(matrix.loc[held_out, image]) / len(total)
    return score


def ensemble(matrix: pd.DataFrame, target: np.ndarray, fold: np.ndarray, threads: int, seeds: int = 10) -> np.ndarray:
    """Three libraries x ten samples x folds (the 1st place): malignant rows repeated to 0.3 % of the benign ones, then
    100 benign rows each; percentile ranks averaged.
    """
    score = np.empty(len(target))
    for number in np.unique(fold):
        held_out = fold == number
        total = np.zeros(int(held_out.sum()))
        for seed in range(seeds):
            index = _oversample(target, ~held_out, seed)
            for model in (
                LGBMClassifier(**LGB_A, n_estimators=200, n_jobs=threads, verbosity=-1, random_state=seed),
                XGBClassifier(**XGB_A, n_estimators=200, n_jobs=threads, random_state=seed),
                CatBoostClassifier(**CAT_A, iterations=200, thread_count=threads, random_seed=seed),
            ):
                model.fit(matrix.iloc[index], target[index])
                total += rankdata(model.predict_proba(matrix[held_out])[:, 1])
        score[held_out] = total / len(total)
    return score


def _undersample(target: np.ndarray, training: np.ndarray, ratio: int, seed: int) -> np.ndarray:
    ill, healthy = np.flatnonzero(training & (target == 1)), np.flatnonzero(training & (target == 0))
    wanted = min(ratio * len(ill), len(healthy))
    return np.r_[ill, np.random.default_rng(seed).choice(healthy, wanted, replace=False)]


def _oversample(target: np.ndarray, training: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ill, healthy = np.flatnonzero(training & (target == 1)), np.flatnonzero(training & (target == 0))
    repeated = rng.choice(ill, max(len(ill), int(0.003 * len(healthy))))
    wanted = min(100 * len(repeated), len(healthy))
    return np.r_[repeated, rng.choice(healthy, wanted, replace=False)]
