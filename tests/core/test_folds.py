"""Folds: disjoint by patient, stratified, refused when degenerate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isic.core.errors import InputError
from isic.core.folds import check_folds, make_folds


def _population(patients: int, positives: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), rng.geometric(0.05, patients))
    target = np.zeros(len(patient), dtype=int)
    target[rng.choice(len(patient), min(positives, len(patient)), replace=False)] = 1
    return pd.DataFrame(
        {
            "isic_id": [f"ISIC_{number:07d}" for number in range(len(patient))],
            "patient_id": [f"IP_{number:07d}" for number in patient],
            "target": target,
        }
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(40, 120), st.integers(30, 80), st.integers(2, 5), st.integers(0, 5))
def test_folds_are_disjoint_complete_and_balanced(
    patients: int, positives: int, count: int, seed: int
) -> None:
    frame = _population(patients, positives, seed)
    folds = make_folds(frame, count, seed)
    assert folds["isic_id"].tolist() == frame["isic_id"].tolist()
    assert set(folds["fold"]) == set(range(count))
    assert (folds.groupby("patient_id")["fold"].nunique() == 1).all()
    share = folds.groupby("fold")["target"].sum() / frame["target"].sum()
    assert share.between(0.5 / count, 1.6 / count).all()
    pd.testing.assert_frame_equal(folds, make_folds(frame, count, seed))


def test_too_few_positive_patients_are_refused() -> None:
    frame = _population(30, 40, 0)
    frame["target"] = (frame["patient_id"] == "IP_0000000").astype(int)
    with pytest.raises(InputError, match="1 patients with a malignant lesion cannot fill 3 folds"):
        make_folds(frame, 3, 0)


def test_recorded_folds_are_checked() -> None:
    folds = make_folds(_population(60, 40, 1), 3, 0)
    check_folds(folds, 3)
    with pytest.raises(InputError, match=r"asks for 0 to 4"):
        check_folds(folds, 5)
    with pytest.raises(InputError, match="fold 1 has no malignant lesion"):
        check_folds(folds.assign(target=folds["target"].where(folds["fold"] != 1, 0)), 3)
    with pytest.raises(InputError, match="fold 2 has no benign lesion"):
        check_folds(folds.assign(target=folds["target"].where(folds["fold"] != 2, 1)), 3)
    first = folds.index[folds["fold"] == 0][0]
    mixed = folds.assign(
        patient_id=folds["patient_id"].where(folds["fold"] != 1, folds.loc[first, "patient_id"])
    )
    with pytest.raises(InputError, match="a patient in several folds"):
        check_folds(mixed, 3)
