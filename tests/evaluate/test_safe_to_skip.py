"""The rule of lesions safe to skip: its miss rate on new patients, its exact index, no own say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from isic.evaluate.results import RunResults
from isic.evaluate.safe_to_skip import ALL, skip_records, skip_threshold


def made(patients: int, seed: int, lesions: int = 12) -> RunResults:
    """Every patient has two malignant lesions, whose scores share a patient's effect."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), lesions)
    target = np.tile([1, 1] + [0] * (lesions - 2), patients)
    score = rng.normal(size=len(patient)) + 2 * target + rng.normal(size=patients)[patient]
    names = [f"IP_{index}" for index in patient]
    ids = [f"ISIC_{index}" for index in range(len(patient))]
    oof = pd.DataFrame(
        {
            "isic_id": ids,
            "patient_id": names,
            "target": target,
            "fold": patient % 3,
            "score": score,
        }
    )
    hospital = np.where(patient % 2, "north", "south")
    return RunResults(oof, pd.DataFrame({"isic_id": ids, "attribution": hospital}))


@pytest.mark.parametrize(
    ("patients", "rate", "position"), [(19, 0.05, 1), (18, 0.05, 0), (29, 0.1, 3), (9, 0.1, 1)]
)
def test_the_threshold_is_the_kth_lowest_patient(patients: int, rate: float, position: int) -> None:
    lowest = np.random.default_rng(0).permutation(patients).astype(float)
    expected = position - 1.0 if position else -np.inf
    assert skip_threshold(lowest, rate) == expected


def test_new_patients_are_missed_as_often_as_stated() -> None:
    rng = np.random.default_rng(1)
    missed = [
        rng.gamma(2, size=5).min() < skip_threshold(rng.gamma(2, size=(39, 5)).min(axis=1), 0.1)
        for _ in range(4000)
    ]
    # k / (n + 1) = 4 / 40; the standard error of 4000 draws is 0.005.
    assert np.mean(missed) == pytest.approx(0.1, abs=0.015)


def test_the_folds_judge_each_other() -> None:
    found = {r["rate"]: r for r in skip_records(made(300, seed=2)) if r["hospital"] == ALL}
    for rate, record in found.items():
        assert record["with_malignant"] == 300
        # Of 200 patients in the other folds; binomial over 300 patients.
        assert record["missed"] / 300 <= rate + 3 * np.sqrt(rate / 300)
    shares = [found[rate]["skipped"] for rate in sorted(found)]
    assert 0 < shares[0] < shares[1] < shares[2] < 1


def test_a_patient_does_not_set_its_own_threshold() -> None:
    results = made(90, seed=3)
    mine = (results.fold == 0) & (results.target == 1)
    low = results.oof.assign(score=np.where(mine, -100.0, results.score))
    changed = RunResults(low, results.rows)
    record = next(r for r in skip_records(changed) if r["rate"] == 0.1 and r["hospital"] == ALL)
    # All 30 patients of fold 0 are missed: their own scores would have forbidden it.
    assert record["missed"] >= 30


def test_hospitals_add_up_and_few_patients_skip_nothing() -> None:
    records = skip_records(made(60, seed=4))
    for name in ("patients", "lesions", "with_malignant", "missed"):
        one = [r for r in records if r["rate"] == 0.2]
        total = next(r[name] for r in one if r["hospital"] == ALL)
        assert sum(r[name] for r in one if r["hospital"] != ALL) == total
    few = skip_records(made(6, seed=5))
    assert {(r["threshold"], r["skipped"], r["missed"]) for r in few if r["rate"] == 0.05} == {
        (None, 0.0, 0)
    }
