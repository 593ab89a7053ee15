"""Evaluation of one run: the headline metrics and every curve as points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isic.core.calibration import Calibration, calibrate_out_of_fold, fit_calibration
from isic.core.metric import auc, pauc, pauc_interval, top15
from isic.evaluate import curves
from isic.evaluate.curves import Records
from isic.evaluate.ladder import ladder_records
from isic.evaluate.reliability import calibration_error, reliability
from isic.evaluate.results import RunResults
from isic.evaluate.safe_to_skip import skip_records
from isic.evaluate.slices import slice_records


@dataclass(frozen=True)
class Evaluation:
    """metrics: the content of metrics/evaluate.json. points: file stem in plots/ -> records."""

    metrics: dict[str, Any]
    points: dict[str, Records]
    calibration: Calibration


def evaluate(results: RunResults, replicates: int, seed: int) -> Evaluation:
    """Evaluate out-of-fold scores; intervals resample patients.

    Raises InputError when the rows hold one class only.
    """
    target, score, patient, fold = results.target, results.score, results.patient, results.fold
    value, low, high = pauc_interval(target, score, patient, replicates, seed)
    calibrated = calibrate_out_of_fold(target, score, fold)

    points = _points(results, calibrated, replicates, seed)
    folds = [_fold(results, int(index)) for index in np.unique(fold)]
    measured = [record["pauc"] for record in folds if record["pauc"] is not None]
    retrieval = top15(patient, target, score)

    metrics = {
        "pauc": value,
        "pauc_low": low,
        "pauc_high": high,
        "pauc_fold_mean": float(np.mean(measured)) if measured else None,
        # Sample standard deviation: the folds are a sample of all splits. Undefined for one fold.
        "pauc_fold_sd": float(np.std(measured, ddof=1)) if len(measured) > 1 else None,
        "auc": auc(target, score),
        "top15_sensitivity": retrieval.sensitivity,
        "top15_tie_break": retrieval.tie_break,
        "top15_pooled": retrieval.pooled,
        "n": len(target),
        "positives": int(target.sum()),
        "patients": len(np.unique(patient)),
        "calibration_error": _errors(points["calibration"]),
        "folds": folds,
        "missing": list(results.missing),
    }

    return Evaluation(metrics, points, fit_calibration(target, score))


def _fold(results: RunResults, fold: int) -> dict[str, Any]:
    mask = results.fold == fold
    target, score = results.target[mask], results.score[mask]
    defined = curves.both_classes(target)
    return {
        "fold": fold,
        "n": int(mask.sum()),
        "positives": int(target.sum()),
        "patients": len(np.unique(results.patient[mask])),
        "pauc": pauc(target, score) if defined else None,
        "auc": auc(target, score) if defined else None,
    }


def _points(
    results: RunResults, calibrated: tuple[np.ndarray, str] | None, replicates: int, seed: int
) -> dict[str, Records]:
    target, score, patient = results.target, results.score, results.patient
    by_fold = [
        {"fold": int(fold), **point}
        for fold in np.unique(results.fold)
        for point in curves.roc_points(target[results.fold == fold], score[results.fold == fold])
    ]

    calibration = reliability(target, score, "score as it is")
    if calibrated is not None:
        calibration += reliability(target, calibrated[0], f"{calibrated[1]}, out of fold")

    return {
        "roc": curves.roc_points(target, score),
        "roc_folds": by_fold,
        "flagged": curves.flagged_points(patient, target, score),
        "calibration": calibration,
        "decision": curves.decision_points(target, calibrated[0]) if calibrated is not None else [],
        "histogram": curves.histogram_points(target, score),
        "slices": slice_records(results.rows, target, score, patient, replicates, seed),
        "ladder": ladder_records(results, replicates, seed),
        "safe_to_skip": skip_records(results),
    }


def _errors(calibration: Records) -> dict[str, float | None]:
    before = [record for record in calibration if record["kind"] == "score as it is"]
    after = [record for record in calibration if record["kind"] != "score as it is"]
    return {"before": calibration_error(before), "after": calibration_error(after)}


def describe_result(metrics: dict[str, Any]) -> str:
    """The result in two sentences, for the description of the MLflow run."""
    low, high = metrics["pauc_low"], metrics["pauc_high"]
    return (
        f"pAUC above 80 % sensitivity **{metrics['pauc']:.4f}** (95 % over patients {low:.4f} to"
        f" {high:.4f}), AUC {metrics['auc']:.4f}, top-15 sensitivity"
        f" {metrics['top15_sensitivity']:.3f}: out of fold over {metrics['n']:,} lesions of"
        f" {metrics['patients']:,} patients, {metrics['positives']:,} malignant,"
        f" {len(metrics['folds'])} folds. The whole report is among the artifacts:"
        " `report/index.html`."
    )


def headline_metrics(metrics: dict[str, Any]) -> dict[str, float | None]:
    """The headline metrics by which runs are compared: the rows of `dvc metrics diff`."""
    names = (
        "pauc",
        "pauc_low",
        "pauc_high",
        "pauc_fold_mean",
        "pauc_fold_sd",
        "auc",
        "top15_sensitivity",
    )
    values = {name: metrics[name] for name in names}
    return values | {"calibration_error": metrics["calibration_error"]["after"]}
