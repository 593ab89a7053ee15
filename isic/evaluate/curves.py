"""Points of the curves: ROC, sensitivity by lesions flagged per patient, histogram, net benefit.

Every function returns records (lists of dicts), which `dvc plots` and the report page read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

Records = list[dict[str, Any]]

#: Points kept per ROC curve, about the pixels of a figure.
_MAX_POINTS = 1200
#: Most lesions flagged per patient: with more, a reader examines nearly everything.
_MAX_FLAGGED = 200


def column_of(records: Records, name: str) -> np.ndarray:
    """Values (n,) of `name` as float64."""
    return np.array([record[name] for record in records], dtype=np.float64)


def group_by(records: Records, name: str) -> dict[Any, Records]:
    """Records by the value of `name`, in order of first appearance."""
    groups: dict[Any, Records] = {}
    for record in records:
        groups.setdefault(record[name], []).append(record)
    return groups


def both_classes(target: np.ndarray) -> bool:
    """Whether both classes occur, so that a ranking metric is defined."""
    return bool(len(target)) and 0 < int(np.sum(target)) < len(target)


def roc_points(target: np.ndarray, score: np.ndarray) -> Records:
    """Corners of the ROC curve as {fpr, tpr, threshold}; empty when one class is absent."""
    if not both_classes(target):
        return []
    # Imported late: takes longer than the curve.
    from sklearn.metrics import roc_curve

    fpr, tpr, threshold = roc_curve(target, score, drop_intermediate=True)
    keep = _spaced_indices(len(fpr))
    return [
        # The first point flags no lesion: its threshold is infinite, which is not valid JSON.
        {"fpr": float(x), "tpr": float(y), "threshold": float(t) if np.isfinite(t) else None}
        for x, y, t in zip(fpr[keep], tpr[keep], threshold[keep], strict=True)
    ]


def _spaced_indices(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _MAX_POINTS)).astype(int))


def rank_in_patient(patient: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Rank (n,) within the patient, 1 for the highest score; ties in row order, as in the official
    top-15 metric.
    """
    frame = pd.DataFrame({"patient": patient, "score": score})
    return (
        frame.groupby("patient", sort=False)["score"]
        .rank(method="first", ascending=False)
        .to_numpy()
        .astype(int)
    )


def flagged_points(patient: np.ndarray, target: np.ndarray, score: np.ndarray) -> Records:
    """Sensitivity when the k highest lesions of each patient are flagged.

    `sensitivity` is the mean over patients with a malignant lesion (the official secondary metric
    at k = 15), `pooled` counts lesions; `share` is the share of all lesions that would be flagged.
    """
    rank = rank_in_patient(patient, score)
    malignant = pd.DataFrame({"patient": patient, "rank": rank})[target == 1]
    if malignant.empty:
        return []

    weight = 1.0 / malignant.groupby("patient")["rank"].transform("size").to_numpy()
    patients = malignant["patient"].nunique()
    ranks = malignant["rank"].to_numpy()
    counts = pd.Series(patient).value_counts().to_numpy()

    return [
        {
            "flagged": int(k),
            "sensitivity": float(weight[ranks <= k].sum() / patients),
            "pooled": float(np.mean(ranks <= k)),
            "share": float(np.minimum(counts, k).sum() / len(patient)),
        }
        for k in _flag_counts(min(_MAX_FLAGGED, int(counts.max())))
    ]


def _flag_counts(most: int) -> list[int]:
    dense = list(range(1, min(most, 30) + 1))
    return dense + list(range(32, most + 1, 4)) if most > 30 else dense


def histogram_points(target: np.ndarray, score: np.ndarray, bins: int = 40) -> Records:
    """Counts of each class per score bin; bins are even in log10(score) when every score is
    positive.
    """
    low, high = float(score.min()), float(score.max())
    if not low < high:
        low, high = low - 0.5, high + 0.5
    edges = np.geomspace(low, high, bins + 1) if low > 0 else np.linspace(low, high, bins + 1)
    # geomspace may round its ends inward, which would drop the extreme rows.
    edges[0], edges[-1] = low, high

    counts = {
        name: np.histogram(score[target == value], edges)[0]
        for name, value in (("benign", 0), ("malignant", 1))
    }
    return [
        {
            "class": name,
            "low": float(edges[i]),
            "high": float(edges[i + 1]),
            "count": int(values[i]),
        }
        for name, values in counts.items()
        for i in range(bins)
    ]


def decision_points(target: np.ndarray, probability: np.ndarray, points: int = 60) -> Records:
    """Net benefit per lesion of acting above a probability threshold (Vickers & Elkin, Med Decis
    Making 2006).

    Compared with acting on every lesion and on none, over thresholds from a tenth of the prevalence
    to one half.
    """
    if not both_classes(target):
        return []

    prevalence = float(np.mean(target))
    order = np.argsort(probability, kind="stable")
    ascending = probability[order]
    # Malignant lesions at or above each position of the sorted scores.
    above = np.concatenate([np.cumsum(target[order][::-1])[::-1], [0]])

    records = []
    for threshold in np.geomspace(
        max(prevalence / 10, 1e-5), max(0.5, min(0.9, 2 * prevalence)), points
    ):
        start = int(np.searchsorted(ascending, threshold, side="left"))
        true = above[start] / len(target)
        false = (len(target) - start) / len(target) - true
        odds = threshold / (1 - threshold)
        records.append(
            {
                "threshold": float(threshold),
                "model": float(true - false * odds),
                "all": float(prevalence - (1 - prevalence) * odds),
                "none": 0.0,
            }
        )

    return records
