"""Gain of feature families: a plain LightGBM on the same patient-grouped folds, rows and seeds each
time.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import lightgbm
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from isic.core.metric import (
    auc,
    paired_difference,
    patient_weights,
    pauc,
    pauc_interval,
    pauc_replicates,
)
from isic.core.schema import PATIENT, TARGET
from isic.tabular import feature_families

#: The published ladder for comparison (junaidaliop/isic2024-tbp, real rows): pAUC out of fold.
PUBLISHED = {
    "stopped at tree 1": 0.0994,
    "raw": 0.1183,
    "patient-relative": 0.1442,
    "patient and site": 0.1689,
}

LESION = ("age", "border", "colour", "composite", "location", "shape", "size", "texture")
#: Benign rows per malignant one in training, as the published solutions undersample.
NEGATIVES = 50
ROUNDS = 150
WORKERS = 2


def columns(families: Sequence[str]) -> list[str]:
    """Feature columns of the families, categories as codes included."""
    known = feature_families()
    return [feature.name for name in families for feature in known[name].features]


def is_text(column: pd.Series) -> bool:
    """Whether a feature is a category."""
    return column.dtype != np.float32


def as_matrix(features: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """float32 (n, len(names)); a category is its code over the whole table (NaN for missing)."""
    matrix = np.empty((len(features), len(names)), dtype=np.float32)
    for index, name in enumerate(names):
        if is_text(features[name]):
            codes = pd.Categorical(features[name]).codes
            matrix[:, index] = np.where(codes < 0, np.nan, codes)
        else:
            matrix[:, index] = features[name].to_numpy()
    return matrix


def out_of_fold(
    features: pd.DataFrame,
    folds: pd.DataFrame,
    families: Sequence[str],
    seeds: int,
    negatives: int | None = NEGATIVES,
) -> np.ndarray:
    """Mean over `seeds` of the out-of-fold log-odds, float64 (n,)."""
    names = columns(families)
    matrix = as_matrix(features, names)
    texts = [name for name in names if is_text(features[name])]
    target, fold = folds[TARGET].to_numpy(), folds["fold"].to_numpy()
    total = np.zeros(len(folds))

    def one(seed: int, held_out_fold: int) -> tuple[np.ndarray, np.ndarray]:
        rows = _training_rows(target, fold != held_out_fold, negatives, [seed, held_out_fold])
        model = lightgbm.train(
            _parameters(seed), _dataset(matrix[rows], target[rows], names, texts), ROUNDS
        )
        held_out = np.flatnonzero(fold == held_out_fold)
        return held_out, np.asarray(model.predict(matrix[held_out], raw_score=True, num_threads=1))

    jobs = [(seed, int(number)) for seed in range(seeds) for number in np.unique(fold)]
    with ThreadPoolExecutor(WORKERS) as pool:
        for held_out, score in pool.map(lambda job: one(*job), jobs):
            total[held_out] += score / seeds
    return total


def step(
    name: str, folds: pd.DataFrame, score: np.ndarray, before: np.ndarray | None, replicates: int
) -> dict[str, object]:
    """One rung: pAUC with interval, AUC, and the paired difference to the rung before on the same
    patients.
    """
    target, patient = folds[TARGET], folds[PATIENT]
    record: dict[str, object] = {
        "step": name,
        "pauc": [round(value, 4) for value in pauc_interval(target, score, patient, replicates)],
        "pauc_fold_mean": round(
            float(np.mean([_fold_pauc(part, score) for _, part in _parts(folds)])), 4
        ),
        "auc": round(auc(target, score), 4),
    }
    if before is not None:
        record["gain"] = [
            round(value, 4)
            for value in paired_difference(target, score, before, patient, replicates)
        ]
    return record


def mean_auc_difference(
    target: pd.Series, pairs: Sequence[tuple[np.ndarray, ...]], patient: pd.Series
) -> list[float]:
    """AUC of the first score of a pair minus that of the second, mean over the pairs, with its
    95 % interval over 1,000 resamples of the patients, the same for all.
    """
    codes = pd.factorize(patient)[0]

    def of(score: np.ndarray) -> np.ndarray:
        blocks = patient_weights(target, codes, 1000, seed=0)
        return np.array(
            [
                roc_auc_score(target, score, sample_weight=weights[codes])
                for block in blocks
                for weights in block
            ]
        )

    value = np.mean([auc(target, a) - auc(target, b) for a, b in pairs])
    return _with_interval(float(value), np.mean([of(a) - of(b) for a, b in pairs], axis=0))


def mean_pauc_difference(
    target: pd.Series, pairs: Sequence[tuple[np.ndarray, ...]], patient: pd.Series
) -> list[float]:
    """The same of pAUC."""
    value = np.mean([pauc(target, a) - pauc(target, b) for a, b in pairs])
    spreads = [pauc_replicates(target, [a, b], patient, 1000) for a, b in pairs]
    return _with_interval(float(value), np.mean([a - b for a, b in spreads], axis=0))


def _with_interval(value: float, spread: np.ndarray) -> list[float]:
    return [round(float(x), 4) for x in (value, *np.quantile(spread, [0.025, 0.975]))]


def _parts(folds: pd.DataFrame) -> list[tuple[object, pd.DataFrame]]:
    return list(folds.reset_index(drop=True).groupby("fold"))


def _fold_pauc(part: pd.DataFrame, score: np.ndarray) -> float:
    return pauc(part[TARGET], score[part.index.to_numpy()])


def _training_rows(
    target: np.ndarray, allowed: np.ndarray, negatives: int | None, seed: list[int]
) -> np.ndarray:
    malignant, benign = (
        np.flatnonzero(allowed & (target == 1)),
        np.flatnonzero(allowed & (target == 0)),
    )
    if negatives and len(benign) > negatives * len(malignant):
        benign = np.random.default_rng(seed).choice(
            benign, negatives * len(malignant), replace=False
        )
    return np.sort(np.concatenate([malignant, benign]))


def _dataset(
    matrix: np.ndarray, target: np.ndarray, names: list[str], texts: list[str]
) -> lightgbm.Dataset:
    return lightgbm.Dataset(
        matrix, target, feature_name=names, categorical_feature=texts, free_raw_data=True
    )


def _parameters(seed: int) -> dict[str, object]:
    return {
        "objective": "binary",
        "learning_rate": 0.05,
        "num_leaves": 7,
        "min_data_in_leaf": 10,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "max_bin": 63,
        "cat_smooth": 20,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        # One thread per model, folds in parallel: threads that synchronise at every split are slow
        # on a busy machine.
        "num_threads": 1,
        "verbosity": -1,
    }
