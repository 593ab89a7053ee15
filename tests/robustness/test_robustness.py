"""Refits and rescoring: groups that can be left out, drift, and the loss from missing columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from isic.core.metric import pauc
from isic.core.paths import Layout
from isic.core.schema import ID
from isic.evaluate.results import RunResults
from isic.robustness.drift import adversarial, drift, psi, too_few
from isic.robustness.perturb import CHANGES, COLUMN_GROUPS, mask_columns, missing_columns
from isic.robustness.robustness import (
    MIN_MALIGNANT,
    distribution_shift,
    hospital_groups,
    largest_fold,
    leave_hospital_out,
    sample_tiles,
)
from tests.report.conftest import make_metadata, results_of


@pytest.fixture(scope="module")
def evidence(run_dir: Layout) -> RunResults:
    return results_of(run_dir, ("vit", "convnext"))


def test_small_hospitals_are_left_out_together() -> None:
    hospital = pd.Series(["A"] * 20 + ["B"] * 20 + ["C"] * 5 + ["D"] * 5)
    target = np.zeros(50, dtype=int)
    target[[0, 1, 2, 3, 20, 21, 22, 40]] = 1
    groups = hospital_groups(hospital, target)
    # C has one malignant lesion and D none: pooled they are still short of three, so B, the
    # smallest, joins them.
    assert groups.iloc[0] == "A"
    assert set(groups[20:]) == {"the others"}
    for _, malignant in pd.Series(target).groupby(groups):
        assert MIN_MALIGNANT <= malignant.sum() < len(malignant)


def test_one_hospital_cannot_be_left_out(evidence: RunResults) -> None:
    assert hospital_groups(pd.Series(["A"] * 30), np.array([1] * 5 + [0] * 25)) is None
    alone = RunResults(evidence.oof, evidence.rows.assign(attribution="A"))
    found = leave_hospital_out(alone, lambda folds: folds["score"].to_numpy(), 20, 0)
    assert "one hospital only" in found["absent"]


def test_every_hospital_is_refitted_without_itself(evidence: RunResults) -> None:
    seen: list[pd.DataFrame] = []

    def refit(folds: pd.DataFrame) -> np.ndarray:
        seen.append(folds)
        return folds["score"].to_numpy() * 2

    records = leave_hospital_out(evidence, refit, 50, 0)["records"]
    folds = seen[0]["fold"].to_numpy()
    hospital = evidence.rows["attribution"].to_numpy()
    assert {len(set(hospital[folds == number])) for number in set(folds)} == {1}
    assert [record["hospital"] for record in records] == ["all pooled", *sorted(set(hospital))]
    # A monotone change of the score leaves the ranking, so nothing is lost.
    assert all(record["change"] == 0 for record in records if not record["note"])


def test_a_refit_that_lacks_a_part_is_compared_with_its_own_kind(evidence: RunResults) -> None:
    worse = evidence.score + np.random.default_rng(0).normal(0, 1, len(evidence.score))
    seen: list[list[int]] = []

    def refit(folds: pd.DataFrame) -> np.ndarray:
        seen.append(folds["fold"].tolist())
        return worse

    found = leave_hospital_out(evidence, refit, 20, 0, refit_both=True)
    # The hospital makes no difference here, only the part that both refits lack.
    assert all(record["change"] == 0 for record in found["records"] if not record["note"])
    assert seen[0] == evidence.fold.tolist() != seen[1]
    seen.clear()
    assert leave_hospital_out(evidence, refit, 20, 0)["records"][0]["change"] < 0
    assert len(seen) == 1


def test_drift_finds_the_column_that_moved() -> None:
    a = make_metadata(2000, 40, 20, seed=1)
    b = make_metadata(2000, 40, 20, seed=2)
    shifted = b.assign(tbp_lv_H=b["tbp_lv_H"] + 10)
    worst = drift(a, shifted)[0]
    assert worst["column"] == "tbp_lv_H"
    assert worst["psi"] > 0.25
    assert worst["shift"] == pytest.approx(2, abs=0.2)
    assert next(row for row in drift(a, b) if row["column"] == "tbp_lv_H")["psi"] < 0.1


def test_a_column_that_vanishes_is_drift() -> None:
    a = make_metadata(500, 20, 5, seed=1)
    assert drift(a, a.assign(tbp_lv_H=np.nan))[0]["column"] == "tbp_lv_H"


def test_psi_of_equal_counts_is_zero_and_it_is_symmetric() -> None:
    a, b = np.array([10, 20, 30]), np.array([30, 20, 10])
    assert psi(a, a) == 0
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert psi(a, b) > 0


def test_the_classifier_tells_different_sets_apart_and_like_ones_not() -> None:
    a, b = make_metadata(1500, 40, 20, seed=1), make_metadata(1500, 40, 20, seed=2)
    b["patient_id"] = "other " + b["patient_id"]
    columns = ["tbp_lv_H", "tbp_lv_A", "tbp_lv_B"]
    assert adversarial(a, b, columns) == pytest.approx(0.5, abs=0.1)
    assert adversarial(a, b.assign(tbp_lv_H=b["tbp_lv_H"] + 15), columns) > 0.9


def test_three_official_test_rows_are_too_few_to_compare(evidence: RunResults) -> None:
    assert "too few to compare (3 lesions" in too_few(evidence.rows.iloc[:3])
    found = distribution_shift(evidence.rows, evidence.fold, evidence.rows.iloc[:3])
    assert found["test"] == []
    assert "fold 0" in found["drift_of"]


def test_a_missing_column_costs_what_the_score_made_of_it(evidence: RunResults) -> None:
    rows = evidence.rows.assign(tbp_lv_H=evidence.rows["tbp_lv_H"] - 8.0 * evidence.target)

    def score(frame: pd.DataFrame) -> np.ndarray:
        return -frame["tbp_lv_H"].to_numpy()

    base = score(rows)
    records = missing_columns(rows, evidence.target, base, score, 50, 0)
    assert records[0]["group"] == "colour inside"
    # All scores equal: chance.
    assert records[0]["change"] == pytest.approx(0.02 - pauc(evidence.target, base))
    assert {record["change"] for record in records[1:]} == {0.0}


def test_taking_columns_away_changes_only_them_and_keeps_their_types(evidence: RunResults) -> None:
    for columns in COLUMN_GROUPS.values():
        changed = mask_columns(evidence.rows, columns, evidence.rows)
        pd.testing.assert_frame_equal(
            changed.drop(columns=list(columns)), evidence.rows.drop(columns=list(columns))
        )
        assert (changed.dtypes == evidence.rows.dtypes).all()
        assert all(changed[name].nunique() <= 1 for name in columns)


@pytest.mark.parametrize("name", list(CHANGES))
def test_changed_tiles_stay_pictures_and_repeat(name: str) -> None:
    tile = np.random.default_rng(0).integers(0, 256, (51, 51, 3)).astype(np.uint8)
    first, second = (CHANGES[name](tile.copy()) for _ in range(2))
    assert first.shape == tile.shape
    assert first.dtype == np.uint8
    assert not np.array_equal(first, tile)
    assert np.array_equal(first, second)


def test_sampled_tiles_are_of_the_fold_and_hold_both_classes(evidence: RunResults) -> None:
    fold = largest_fold(evidence)
    ids, target = sample_tiles(evidence, fold, malignant=5, benign=20)
    rows = evidence.oof.set_index(ID).loc[ids]
    assert set(rows["fold"]) == {fold}
    assert (rows["target"].to_numpy() == target).all()
    assert (target.sum(), len(target)) == (5, 25)
