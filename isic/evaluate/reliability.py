"""Calibration points: observed against predicted share of malignant lesions, in bins even on a log
axis.
"""

from __future__ import annotations

import numpy as np
from scipy.special import betaincinv

from isic.evaluate.curves import Records

_BINS = 10


def reliability(target: np.ndarray, probability: np.ndarray, kind: str) -> Records:
    """Log-spaced bins of predicted probability: at a prevalence of 0.1 %, the first of even bins
    would hold nearly all.

    Each record gives the mean prediction, the observed share of malignant lesions and its 95 %
    Clopper-Pearson interval. Empty bins are left out; scores outside [0, 1] give an empty list.
    """
    if probability.min() < 0 or probability.max() > 1:
        return []
    top = max(float(probability.max()), 1e-6)
    bottom = max(min(float(np.quantile(probability, 0.01)), top / 2), 1e-6)
    edges = np.geomspace(bottom, top, _BINS + 1)
    bin_index = np.clip(np.searchsorted(edges, probability, side="right") - 1, 0, _BINS - 1)

    records = []
    for index in np.unique(bin_index):
        inside = bin_index == index
        count, positives = int(inside.sum()), int(target[inside].sum())
        low = float(betaincinv(positives, count - positives + 1, 0.025)) if positives else 0.0
        high = (
            float(betaincinv(positives + 1, count - positives, 0.975)) if positives < count else 1.0
        )
        records.append(
            {
                "kind": kind,
                "predicted": float(probability[inside].mean()),
                "observed": positives / count,
                "low": float(low),
                "high": float(high),
                "n": count,
                "positives": positives,
            }
        )
    return records


def calibration_error(records: Records) -> float | None:
    """Mean |predicted − observed| weighted by rows, or None without bins."""
    total = sum(record["n"] for record in records)
    if not total:
        return None
    return float(
        sum(abs(record["predicted"] - record["observed"]) * record["n"] for record in records)
        / total
    )
