"""pAUC of each step (each network, all networks, the stack), compared on the same resamples of
patients.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from isic.core.metric import auc, paired_difference, pauc, pauc_interval
from isic.evaluate.curves import Records, both_classes
from isic.evaluate.results import RunResults

#: Metric name -> value.
Scores = dict[str, float]


def _ladder_steps(results: RunResults) -> dict[str, np.ndarray]:
    """Step -> score (n,), in the order of the ladder; the last one is the final score."""
    steps = {f"image {name}": values for name, values in results.logits.items()}
    if len(results.logits) > 1:
        steps["images, mean"] = np.mean(list(results.logits.values()), axis=0)
    named = {
        name.replace("_", " "): values
        for name, values in results.steps.items()
        if np.isfinite(values).all()
    }
    return {**steps, **named, "stack": results.score}


def network_scores(results: RunResults, ladder: Records) -> dict[str, dict[int | None, Scores]]:
    """Backbone -> fold -> pAUC and AUC of its out-of-fold logits. Fold None has the pooled values
    and the interval of `ladder`.

    Folds with one class only are left out.
    """
    pooled = {record["step"]: record for record in ladder}
    by_backbone: dict[str, dict[int | None, Scores]] = {}
    for name, logits in results.logits.items():
        step = pooled[f"image {name}"]
        scores: dict[int | None, Scores] = {
            None: {
                "pauc": step["pauc"],
                "pauc_low": step["low"],
                "pauc_high": step["high"],
                "auc": step["auc"],
            }
        }
        for fold in np.unique(results.fold):
            mask = results.fold == fold
            target = results.target[mask]
            if both_classes(target):
                scores[int(fold)] = {
                    "pauc": pauc(target, logits[mask]),
                    "auc": auc(target, logits[mask]),
                }
        by_backbone[name] = scores
    return by_backbone


def ladder_records(results: RunResults, replicates: int, seed: int) -> Records:
    """One record per step: pAUC with interval, AUC, and the gain of the final score over it (paired
    interval).
    """
    final = results.score
    records: Records = []
    for name, score in _ladder_steps(results).items():
        value, low, high = pauc_interval(results.target, score, results.patient, replicates, seed)
        record: dict[str, Any] = {"step": name, "pauc": value, "low": low, "high": high}
        record["auc"] = auc(results.target, score)
        if score is final or np.array_equal(score, final):
            record |= {"gain": None, "gain_low": None, "gain_high": None}
        else:
            gain = paired_difference(
                results.target, final, score, results.patient, replicates, seed
            )
            record |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
        records.append(record)
    return records
