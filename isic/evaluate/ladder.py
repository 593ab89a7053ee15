"""What each step adds: features alone, images alone, all of it, compared on the same resamples of patients."""

from __future__ import annotations

from typing import Any

import numpy as np

from isic.core.metric import auc, paired_difference, pauc_interval
from isic.evaluate.curves import Records
from isic.evaluate.results import RunResults


def steps(evidence: RunResults) -> dict[str, np.ndarray]:
    """Step -> score, in the order of the ladder; the last one is the score under judgement."""
    ladder = {f"image {name}": values for name, values in evidence.logits.items()}
    if len(evidence.logits) > 1:
        ladder["images, mean"] = np.mean(list(evidence.logits.values()), axis=0)
    named = {name.replace("_", " "): values for name, values in evidence.steps.items() if np.isfinite(values).all()}
    return {**ladder, **named, "stack": evidence.score}


def ladder(evidence: RunResults, replicates: int, seed: int) -> Records:
    """One record per step: pAUC with interval, AUC, and how far the final score is ahead of it (paired interval)."""
    final = evidence.score
    records: Records = []
    for name, score in steps(evidence).items():
        value, low, high = pauc_interval(evidence.target, score, evidence.patient, replicates, seed)
        record: dict[str, Any] = {"step": name, "pauc": value, "low": low, "high": high}
        record["auc"] = auc(evidence.target, score)
        if score is final or np.array_equal(score, final):
            record |= {"gain": None, "gain_low": None, "gain_high": None}
        else:
            gain = paired_difference(evidence.target, final, score, evidence.patient, replicates, seed)
            record |= {"gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
        records.append(record)
    return records
