"""Reasons for a lesion's score: lines for the pages, and the text of `isic explain`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit

from isic.core.errors import InputError
from isic.core.schema import ID, PATIENT
from isic.report.failures import Reasons
from isic.report.shap import explain_lesions, shap_by_family
from isic.report.shap_text import ShapGroup
from isic.stack.inputs import Inputs
from isic.stack.model import Stack

#: Groups shown per lesion of a page, strongest first.
_SHOWN = 5
#: Log-odds below which a group is left out of the text (2 % of the odds).
_SMALL = 0.02


def score_reasons(stack: Stack, inputs: Inputs) -> Callable[[Sequence[str]], Reasons]:
    """Function: isic_ids -> lookup of their reasons, by the chains that gave their out-of-fold
    scores.
    """

    def explain_ids(isic_ids: Sequence[str]) -> Reasons:
        reasons: dict[str, list[ShapGroup]] = {}
        folds = inputs.folds["fold"].to_numpy()[inputs.features[ID].isin(list(isic_ids))]
        for fold in np.unique(folds):
            for isic_id, shap in explain_lesions(stack, inputs, int(fold), list(isic_ids)).items():
                reasons[isic_id] = shap.groups[:_SHOWN]
        return lambda isic_id: reasons.get(isic_id, [])

    return explain_ids


def explain_score(stack: Stack, inputs: Inputs, oof: pd.DataFrame, isic_id: str) -> str:
    """Text of the reasons for the out-of-fold score of a training lesion.

    oof: isic_id, patient_id, score of all lesions. Raises InputError when the lesion is unknown.
    """
    row = np.flatnonzero(inputs.features[ID] == isic_id)
    if not len(row):
        raise InputError(
            f"no lesion {isic_id} in the feature table: give an isic_id of the training data"
        )
    fold = int(inputs.folds["fold"].iloc[row[0]])

    shap = explain_lesions(stack, inputs, fold, [isic_id])[isic_id]
    families = shap_by_family(stack, shap.values.to_frame().T).iloc[0]
    average, change = float(expit(shap.average)), float(shap.values.sum())
    return "\n".join(
        [
            _rank_line(isic_id, oof.set_index(ID)),
            *_raised_and_lowered(shap.groups),
            *_family_line(families),
            _total_line(average, change),
        ]
    )


def _rank_line(isic_id: str, oof: pd.DataFrame) -> str:
    score, patient = float(oof["score"][isic_id]), oof[PATIENT][isic_id]
    scores, own = oof["score"], oof.loc[oof[PATIENT] == patient, "score"]
    return (
        f"{isic_id} of patient {patient}: score {score:.4f}, rank"
        f" {int((scores > score).sum()) + 1:,} of all {len(scores):,} lesions and"
        f" {int((own > score).sum()) + 1} of the patient's {len(own)} (1 is the most suspicious)"
    )


def _raised_and_lowered(groups: list[ShapGroup]) -> list[str]:
    lines = []
    for title, part in (
        ("Raised by", [group for group in groups if group.log_odds > _SMALL]),
        ("Lowered by", [group for group in groups if group.log_odds < -_SMALL]),
    ):
        lines += (
            [f"{title}:", *(f"  {group}" for group in part)]
            if part
            else [f"{title}: nothing above 2 % of the odds"]
        )
    return lines


def _family_line(families: pd.Series) -> list[str]:
    large = [
        f"{family} × {np.exp(change):.2f}"
        for family, change in families.items()
        if abs(change) > _SMALL
    ]
    return [f"By family of columns, odds: {', '.join(large)}"] if large else []


def _total_line(average: float, change: float) -> str:
    factor = np.exp(change)
    times = f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"
    return f"Together: the average lesion's odds, 1 in {1 / average:,.0f}, × {times}"
