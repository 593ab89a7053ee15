"""Refits and rescoring under other conditions: hospitals left out, shifted distributions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.metric import auc, paired_difference, pauc_interval
from isic.core.schema import CATEGORICAL, NUMERIC
from isic.evaluate.results import RunResults
from isic.evaluate.slices import MIN_POSITIVES
from isic.robustness.drift import adversarial, drift, too_few

#: folds frame -> out-of-fold scores in its row order, by a refit of the stacker on those folds.
_Refit = Callable[[pd.DataFrame], NDArray[np.float64]]

#: Columns that nearly identify the hospital; adversarial validation is also run without
#: them.
_HOSPITAL_PROXIES = ("attribution", "tbp_tile_type", "tbp_lv_x", "tbp_lv_y", "tbp_lv_z")
#: Minimum malignant lesions of a held-out hospital; those with fewer are pooled.
MIN_MALIGNANT = 3


def hospital_groups(hospital: pd.Series, target: np.ndarray) -> pd.Series | None:
    """Group of each row for leave-hospital-out: its hospital, or "the others" pooled when it has
    too few malignant.

    None when fewer than two groups remain: then nothing can be left out.
    """
    names = hospital.fillna("missing")
    malignant = pd.Series(target, index=names.index).groupby(names).sum().sort_values(kind="stable")
    benign = pd.Series(1 - target, index=names.index).groupby(names).sum()
    small = [
        name for name in malignant.index if malignant[name] < MIN_MALIGNANT or not benign[name]
    ]
    rest = [name for name in malignant.index if name not in small]
    # If the pooled rest has too few malignant lesions too, it is added to the smallest other
    # hospital.
    if small and malignant[small].sum() < MIN_MALIGNANT and rest:
        small.append(rest.pop(0))
    label = "the others" if len(small) > 1 else (small or ["the others"])[0]
    groups = names.where(~names.isin(small), label)
    return groups if groups.nunique() > 1 else None


def leave_hospital_out(
    results: RunResults, refit: _Refit, replicates: int, seed: int, refit_both: bool = False
) -> dict[str, Any]:
    """Score each hospital by a stacker trained without it; compare with the ordinary out-of-fold
    score.

    `refit_both` is for a `refit` that lacks a part of the run's stacker: it then also makes the
    score on the ordinary folds, so that only the hospital differs. Image logits stay those of the
    ordinary folds: only the stacker is refitted.
    """
    target, patient = results.target, pd.factorize(results.patient)[0]
    groups = hospital_groups(results.rows["attribution"], target)
    if groups is None:
        return {"absent": "one hospital only: there is none to leave out", "records": []}
    usual = refit(results.oof) if refit_both else results.score
    codes = pd.factorize(groups, sort=True)[0]
    left_out = refit(results.oof.assign(fold=codes.astype(np.int64)))
    all_rows = np.ones(len(target), dtype=bool)
    parts = [
        ("all pooled", all_rows),
        *((str(name), (groups == name).to_numpy()) for name in sorted(groups.unique())),
    ]
    records = [
        {
            "hospital": name,
            **_pair(target[mask], usual[mask], left_out[mask], patient[mask], replicates, seed),
        }
        for name, mask in parts
    ]
    return {"absent": "", "refit_both": refit_both, "records": records}


def _pair(
    target: np.ndarray,
    usual: np.ndarray,
    left_out: np.ndarray,
    patient: np.ndarray,
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    positives = int(target.sum())
    record: dict[str, Any] = {
        "n": len(target),
        "positives": positives,
        "auc": None,
        "auc_left_out": None,
    }
    if 0 < positives < len(target):
        record |= {"auc": auc(target, usual), "auc_left_out": auc(target, left_out)}
    if positives < MIN_POSITIVES:
        return {
            **record,
            "note": f"too few to compare ({positives} malignant, {MIN_POSITIVES} needed)",
        }
    before, after = (
        pauc_interval(target, score, patient, replicates, seed) for score in (usual, left_out)
    )
    change = paired_difference(target, left_out, usual, patient, replicates, seed)
    return {
        **record,
        "note": "",
        "pauc": before.value,
        "pauc_left_out": after.value,
        "low": after.low,
        "high": after.high,
        "change": change.value,
        "change_low": change.low,
        "change_high": change.high,
    }


def distribution_shift(
    rows: pd.DataFrame, fold: np.ndarray, test: pd.DataFrame | None
) -> dict[str, Any]:
    """Adversarial validation and drift: training against test rows, and each fold against the
    others.
    """
    every = [*NUMERIC, *CATEGORICAL]
    columns = {
        "all columns": every,
        "without hospital, lighting, position": [c for c in every if c not in _HOSPITAL_PROXIES],
    }
    absent = "there are no test rows here" if test is None else too_few(test)
    shift: dict[str, Any] = {
        "test_absent": absent,
        "test": [],
        "drift": [],
        "drift_of": "",
        "folds": [],
    }
    if test is not None and not absent:
        shift["test"] = [
            {"columns": name, "auc": adversarial(rows, test, names)}
            for name, names in columns.items()
        ]
    groups = np.unique(fold)
    if len(groups) > 1:
        without_proxies = columns["without hospital, lighting, position"]
        shift["folds"] = [
            {
                "fold": int(group),
                "auc": adversarial(rows[fold != group], rows[fold == group], without_proxies),
            }
            for group in groups
            if not too_few(rows[fold == group])
        ]
    if test is not None and not absent:
        shift |= {"drift_of": "test rows against training rows", "drift": drift(rows, test)}
    elif len(groups) > 1:
        first = int(groups[0])
        shift |= {
            "drift_of": f"fold {first} against the others",
            "drift": drift(rows[fold != first], rows[fold == first]),
        }
    return shift


def sample_tiles(
    results: RunResults, fold: int, malignant: int = 40, benign: int = 160, seed: int = 0
) -> tuple[Sequence[str], np.ndarray]:
    """Ids and targets of a sample of a fold's lesions, malignant first."""
    rng = np.random.default_rng(seed)
    chosen = []
    for value, most in ((1, malignant), (0, benign)):
        members = np.flatnonzero((results.fold == fold) & (results.target == value))
        chosen.append(np.sort(rng.permutation(members)[:most]))
    positions = np.concatenate(chosen)
    return list(results.oof["isic_id"].iloc[positions]), results.target[positions]


def largest_fold(results: RunResults) -> int:
    """The fold with most malignant lesions."""
    return int(pd.Series(results.target).groupby(results.fold).sum().idxmax())


def pooled_metrics(content: Mapping[str, Any]) -> dict[str, float]:
    """Headline values for the tracker."""
    metrics: dict[str, float] = {}
    pooled = [
        record for record in content["hospitals"]["records"] if record["hospital"] == "all pooled"
    ]
    if pooled and "pauc_left_out" in pooled[0]:
        metrics["robustness_pauc_left_out"] = pooled[0]["pauc_left_out"]
    if content["sameness"]["test"]:
        metrics["robustness_auc_train_test"] = content["sameness"]["test"][0]["auc"]
    return metrics
