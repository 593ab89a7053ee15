"""Fitting the stacker: members over seeds and samples of benign rows, for each fold on the other folds' rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from isic.core.errors import InputError
from isic.core.metric import auc, pauc
from isic.core.params import Stack as Settings
from isic.core.schema import ID, PATIENT, TARGET
from isic.stack.boost import bin_columns, train, workers
from isic.stack.design import Columns, Design
from isic.stack.evidence import Scale, check_logits, image_columns
from isic.stack.model import Chain, Stack, chain_scores

Scales = dict[int, dict[str, Scale]]


def fit_stack(
    features: pd.DataFrame, logits: Mapping[str, ArrayLike], folds: pd.DataFrame, settings: Settings
) -> Stack:
    """Fit one chain per fold and score every row out of fold.

    features: isic_id and feature columns, (n) rows. logits: {backbone: raw out-of-fold logits (n,)} in the same order.
    folds: isic_id, patient_id, target, fold of the same lesions in any order. The same input gives the same bytes.
    Raises InputError when the frames do not hold the same lesions, or a logit is missing.
    """
    folds = align(folds, features[ID])
    backbones = tuple(logits)
    check_logits(logits, backbones, len(features))
    _complete(logits)
    target, fold = folds[TARGET].to_numpy(np.int64), folds["fold"].to_numpy(np.int64)
    design = Design.fit(features)
    scales = _fit_scales(logits, fold, settings.evidence.scale)
    base = design.columns(features)
    evidence = [
        _evidence(logits, scales, fold, folds[PATIENT], settings, noise) for noise in (settings.evidence.noise, 0.0)
    ]
    bins = bin_columns(base | evidence[0], target, settings.params.max_bin)
    chains = _fit_chains(bins, target, fold, scales, settings)
    columns = base | evidence[1]
    score = np.empty(len(features))
    for number, chain in chains.items():
        held_out = np.flatnonzero(fold == number)
        score[held_out] = chain_scores(chain, columns, held_out)
    oof = folds.assign(score=score)
    return Stack(design, chains, settings.evidence.relative, oof, fold_metrics(oof))


def fold_metrics(oof: pd.DataFrame) -> dict[str, Any]:
    """pAUC and AUC pooled and per fold, with the folds' mean and standard deviation (pAUC is not additive)."""
    each = []
    for number, part in oof.groupby("fold"):
        values = {"pauc": pauc(part[TARGET], part["score"]), "auc": auc(part[TARGET], part["score"])}
        each.append({"fold": int(str(number)), **values, "positives": int(part[TARGET].sum()), "n": len(part)})
    of_folds = [values["pauc"] for values in each]
    return {
        "pauc": pauc(oof[TARGET], oof["score"]),
        "auc": auc(oof[TARGET], oof["score"]),
        "pauc_fold_mean": float(np.mean(of_folds)),
        "pauc_fold_sd": float(np.std(of_folds, ddof=1)) if len(of_folds) > 1 else 0.0,
        "folds": each,
    }


def align(folds: pd.DataFrame, ids: pd.Series) -> pd.DataFrame:
    """isic_id, patient_id, target, fold in the order of `ids`; InputError unless both hold the same lesions once."""
    table = folds.set_index(ID)[[PATIENT, TARGET, "fold"]]
    if len(table) != len(ids) or not table.index.is_unique or not ids.is_unique or not ids.isin(table.index).all():
        unknown = ids[~ids.isin(table.index)]
        which = f", for example {unknown.iloc[0]}" if len(unknown) else ""
        raise InputError(
            f"features hold {len(ids)} lesions and folds {len(table)}, not the same ones{which}: "
            "rerun `dvc repro features folds`"
        )
    return table.loc[ids].rename_axis(ID).reset_index()


def sample_rows(
    target: NDArray[np.int64], training: NDArray[np.bool_], negatives: int, seed: list[int]
) -> NDArray[np.int64]:
    """Sorted rows of one member: all malignant ones and `negatives` benign ones for each, drawn afresh (0: all)."""
    ill = np.flatnonzero(training & (target == 1))
    healthy = np.flatnonzero(training & (target == 0))
    wanted = negatives * len(ill)
    if 0 < wanted < len(healthy):
        healthy = np.random.default_rng(seed).choice(healthy, wanted, replace=False)
    return np.sort(np.concatenate([ill, healthy]))


def _fit_chains(
    bins: Any, target: NDArray[np.int64], fold: NDArray[np.int64], scales: Scales, settings: Settings
) -> dict[int, Chain]:
    params = settings.params.model_dump()

    def member(task: tuple[int, int]) -> Any:
        number, seed = task
        index = sample_rows(target, fold != number, settings.negatives, [seed, number])
        return train(bins, index, params, settings.rounds, seed)

    tasks = [(number, seed) for number in scales for seed in range(settings.seeds)]
    with ThreadPoolExecutor(workers()) as pool:
        boosters = dict(zip(tasks, pool.map(member, tasks), strict=True))
    return {
        number: Chain(
            scales[number],
            [boosters[number, seed] for seed in range(settings.seeds)],
            _offset(target[fold != number], settings),
        )
        for number in scales
    }


def _offset(target: NDArray[np.int64], settings: Settings) -> float:
    """Log-odds to add so that scores are probabilities at the prevalence of `target`, not of the sample."""
    ill, healthy = int(target.sum()), int((target == 0).sum())
    kept = min(settings.negatives * ill, healthy) if settings.negatives else healthy
    return math.log(kept / healthy) - math.log(settings.params.scale_pos_weight)


def _fit_scales(logits: Mapping[str, ArrayLike], fold: NDArray[np.int64], how: str) -> Scales:
    return {
        number: {name: Scale.fit(np.asarray(values)[fold == number], how) for name, values in logits.items()}
        for number in np.unique(fold).tolist()
    }


def _evidence(
    logits: Mapping[str, ArrayLike],
    scales: Scales,
    fold: NDArray[np.int64],
    patients: pd.Series,
    settings: Settings,
    noise: float,
) -> Columns:
    """Image columns of all rows, each by its own fold's scale; noise keeps members from trusting one logit too far."""
    rng = np.random.default_rng(0)
    scaled = {}
    for backbone, values in logits.items():
        raw = np.asarray(values)
        scaled[backbone] = np.empty(len(raw))
        for number in scales:
            scaled[backbone][fold == number] = scales[number][backbone](raw[fold == number])
        scaled[backbone] += rng.normal(0, noise, len(raw)) if noise else 0.0
    return image_columns(scaled, patients, settings.evidence.relative)


def _complete(logits: Mapping[str, ArrayLike]) -> None:
    for backbone, values in logits.items():
        broken = int((~np.isfinite(np.asarray(values, dtype=np.float64))).sum())
        if broken:
            raise InputError(f"{broken} logits of {backbone} are NaN or infinite: rerun `dvc repro` for that backbone")
