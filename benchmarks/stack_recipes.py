"""Three stacking recipes of the competition's repositories, written from their descriptions.

They are the other side of `benchmarks/stack.py`: plain library calls, a fit per fold and sample, no
shared binning. Each recipe is a function of one task (a fold and a seed) and returns the scores of
the fold's rows; scores of several seeds are summed.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from catboost import CatBoostClassifier
from lightgbm import LGBMClassifier
from scipy.stats import rankdata
from xgboost import XGBClassifier

#: Parameter set A ("greysky", the base of the 1st, 3rd, 4th and 10th places). num_leaves 103 at
#: depth 4 means 16.
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
_LGB = {"n_estimators": 200, "n_jobs": 1, "verbosity": -1}


def single(matrix: pd.DataFrame, target: np.ndarray, held_out: np.ndarray, seed: int) -> np.ndarray:
    """One LightGBM on all rows; malignant ones have the square root of their rarity as weight."""
    train = ~held_out
    weight = float((target[train] == 0).sum() / target[train].sum()) ** 0.5
    model = LGBMClassifier(**{**LGB_A, "scale_pos_weight": weight}, **_LGB, random_state=seed)
    model.fit(matrix[train], target[train])
    return np.asarray(model.predict_proba(matrix[held_out])[:, 1])


def bagged(matrix: pd.DataFrame, target: np.ndarray, held_out: np.ndarray, seed: int) -> np.ndarray:
    """LightGBM without images on 100 benign lesions per malignant one, its rank; see `with_image`
    (junaid).
    """
    features = matrix.drop(columns=[name for name in matrix.columns if name.startswith("image_")])
    index = _undersample(target, ~held_out, 100, seed)
    model = LGBMClassifier(**LGB_A, **_LGB, random_state=seed).fit(
        features.iloc[index], target[index]
    )
    return np.asarray(rankdata(model.predict_proba(features[held_out])[:, 1]))


def with_image(total: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Mean of the percentile ranks of the bagged models' summed ranks and of the image score, both
    (rows of a fold).
    """
    return np.asarray(rankdata(total) / len(total) + rankdata(image) / len(image))


def ensemble(
    matrix: pd.DataFrame, target: np.ndarray, held_out: np.ndarray, seed: int
) -> np.ndarray:
    """Three libraries on one sample (the 1st place): malignant rows repeated to 0.3 % of the benign
    ones, then 100 benign rows each; percentile ranks summed.
    """
    index = _oversample(target, ~held_out, seed)
    total = np.zeros(int(held_out.sum()))
    for model in (
        LGBMClassifier(**LGB_A, **_LGB, random_state=seed),
        XGBClassifier(**XGB_A, n_estimators=200, n_jobs=1, random_state=seed),
        CatBoostClassifier(**CAT_A, iterations=200, thread_count=1, random_seed=seed),
    ):
        model.fit(matrix.iloc[index], target[index])
        total += rankdata(model.predict_proba(matrix[held_out])[:, 1])
    return total


#: Name -> (recipe, samples a fold): 5, 25 and, of three libraries, 150 models.
RECIPES = {"single": (single, 1), "bagged": (bagged, 5), "ensemble": (ensemble, 10)}


def _undersample(target: np.ndarray, training: np.ndarray, ratio: int, seed: int) -> np.ndarray:
    malignant, benign = (
        np.flatnonzero(training & (target == 1)),
        np.flatnonzero(training & (target == 0)),
    )
    wanted = min(ratio * len(malignant), len(benign))
    return np.r_[malignant, np.random.default_rng(seed).choice(benign, wanted, replace=False)]


def _oversample(target: np.ndarray, training: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    malignant, benign = (
        np.flatnonzero(training & (target == 1)),
        np.flatnonzero(training & (target == 0)),
    )
    repeated = rng.choice(malignant, max(len(malignant), int(0.003 * len(benign))))
    wanted = min(100 * len(repeated), len(benign))
    return np.r_[repeated, rng.choice(benign, wanted, replace=False)]
