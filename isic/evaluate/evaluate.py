"""The judgement of one run: the headline numbers and every curve as points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isic.core.calibration import Calibration, fit_calibration, out_of_fold
from isic.core.metric import auc, pauc, pauc_interval, top15
from isic.evaluate import curves
from isic.evaluate.curves import Records
from isic.evaluate.ladder import ladder
from isic.evaluate.reliability import calibration_error, reliability
from isic.evaluate.results import RunResults
from isic.evaluate.slices import slice_records


@dataclass(frozen=True)
class Evaluation:
    """metrics: the content of metrics/evaluate.json. points: file stem in plots/ -> records."""

    metrics: dict[str, Any]
    points: dict[str, Records]
    calibration: Calibration


def evaluate(evidence: RunResults, replicates: int, seed: int) -> Evaluation:
    """Judge out-of-fold scores; intervals resample patients.

    Raises InputError when the rows hold one class only: then there is nothing to rank.
    """
    target, score, patient, fold = evidence.target, evidence.score, evidence.patient, evidence.fold
    value, low, high = pauc_interval(target, score, patient, replicates, seed)
    calibrated = out_of_fold(target, score, fold)
    points = _points(evidence, calibrated, replicates, seed)
    folds = [_fold(evidence, int(number)) for number in np.unique(fold)]
    measured = [record["pauc"] for record in folds if record["pauc"] is not None]
    retrieval = top15(patient, target, score)
    metrics = {
        "pauc": value,
        "pauc_low": low,
        "pauc_high": high,
        "pauc_fold_mean": float(np.mean(measured)) if measured else None,
        # The sample deviation: the folds at hand stand for all splits. One fold has none.
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
        "missing": list(evidence.missing),
    }
    return Evaluation(metrics, points, fit_calibration(target, score))


def _fold(evidence: RunResults, number: int) -> dict[str, Any]:
    mask = evidence.fold == number
    target, score = evidence.target[mask], evidence.score[mask]
    defined = curves.both_classes(target)
    return {
        "fold": number,
        "n": int(mask.sum()),
        "positives": int(target.sum()),
        "patients": len(np.unique(evidence.patient[mask])),
        "pauc": pauc(target, score) if defined else None,
        "auc": auc(target, score) if defined else None,
    }


def _points(
    evidence: RunResults, calibrated: tuple[np.ndarray, str] | None, replicates: int, seed: int
) -> dict[str, Records]:
    target, score, patient = evidence.target, evidence.score, evidence.patient
    by_fold = [
        {"fold": int(number), **point}
        for number in np.unique(evidence.fold)
        for point in curves.roc(target[evidence.fold == number], score[evidence.fold == number])
    ]
    calibration = reliability(target, score, "score as it is")
    if calibrated is not None:
        calibration += reliability(target, calibrated[0], f"{calibrated[1]}, out of fold")
    return {
        "roc": curves.roc(target, score),
        "roc_folds": by_fold,
        "flagged": curves.flagged(patient, target, score),
        "calibration": calibration,
        "decision": curves.decision(target, calibrated[0]) if calibrated is not None else [],
        "histogram": curves.histogram(target, score),
        "slices": slice_records(evidence.rows, target, score, patient, replicates, seed),
        "ladder": ladder(evidence, replicates, seed),
    }


def _errors(calibration: Records) -> dict[str, float | None]:
    before = [record for record in calibration if record["kind"] == "score as it is"]
    after = [record for record in calibration if record["kind"] != "score as it is"]
    return {"before": calibration_error(before), "after": calibration_error(after)}


def in_words(metrics: dict[str, Any]) -> str:
    """The result in two sentences, for the page of the run."""
    low, high = metrics["pauc_low"], metrics["pauc_high"]
    return (
        f"pAUC above 80 % sensitivity **{metrics['pauc']:.4f}** (95 % over patients {low:.4f} to {high:.4f}), AUC "
        f"{metrics['auc']:.4f}, top-15 sensitivity {metrics['top15_sensitivity']:.3f}: out of fold over "
        f"{metrics['n']:,} lesions of {metrics['patients']:,} patients, {metrics['positives']:,} malignant, "
        f"{len(metrics['folds'])} folds. The whole report is among the artifacts: `report/index.html`."
    )


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """The single numbers of `metrics`, for a tracker: what is absent or nested is left out."""
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
