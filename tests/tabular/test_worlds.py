"""Use of relative features: lesions malignant as such, or only relative to their patient."""

from __future__ import annotations

import numpy as np
import pandas as pd

from isic.core.metric import pauc
from isic.tabular import build_features
from tests.tabular.population import lesions


def _world(sizes: list[int], apart: float, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Lesions whose hue and diameter follow patient levels `apart` sd apart; malignant ones lie 3
    sd off their own.
    """
    frame = lesions(sizes, seed)
    rng = np.random.default_rng(seed)
    patient = frame["patient_id"].str[3:].astype(int).to_numpy()
    target = (rng.random(len(frame)) < 0.03).astype(np.int64)
    signs = (
        apart * rng.normal(size=(len(sizes), 2))[patient]
        + rng.normal(size=(len(frame), 2))
        + 3 * target[:, None]
    )
    return (
        frame.assign(tbp_lv_H=50 - 3 * signs[:, 0], clin_size_long_diam_mm=20 + 0.5 * signs[:, 1]),
        target,
    )


def _scores(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Absolute and patient-relative score from the same two measurements."""
    built = build_features(frame, ["raw", "patient_z"])
    absolute = built["clin_size_long_diam_mm"] / 0.5 - built["tbp_lv_H"] / 3
    relative = built["patient_z__diam"] - built["patient_z__H"]
    return absolute.to_numpy(), relative.to_numpy()


def test_relative_features_win_where_lesions_differ_from_their_own_patient_only() -> None:
    frame, target = _world([80] * 40, apart=4.0, seed=1)
    absolute, relative = _scores(frame)
    assert pauc(target, relative) > pauc(target, absolute) + 0.05


def test_absolute_features_win_where_patients_are_alike_and_have_few_lesions() -> None:
    frame, target = _world([4] * 800, apart=0.0, seed=2)
    absolute, relative = _scores(frame)
    assert pauc(target, absolute) > pauc(target, relative) + 0.02
