"""Leaks are named and refused; honest columns pass, in particular those that are constant within a
patient.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.schema import PATIENT
from isic.robustness.leaks import find_leaks, refuse_leaks, screen_leaks
from isic.stack.training_data import build_training_data
from isic.tabular import build_features, fitted
from tests.stack.population import Population, make, settings
from tests.tabular.population import lesions


@pytest.fixture(scope="module")
def people() -> Population:
    return make(lesions=2400, positives=90, patients=60)


def leaks(people: Population) -> list[tuple[str, int | None]]:
    data = build_training_data(*people, settings().images, settings().params.max_bin)
    found = find_leaks(data.columns, data.target, data.fold, people.folds["patient_id"])
    return [(leak.column, leak.fold) for leak in found]


def planted(people: Population, strength: np.ndarray) -> Population:
    """`people` with a column `helpful`: noise, and `strength` (n,) in malignant lesions."""
    noise = np.random.default_rng(0).normal(size=len(people.folds))
    helpful = noise + strength * people.folds["target"].to_numpy()
    return people._replace(features=people.features.assign(helpful=helpful.astype(np.float32)))


def test_honest_columns_pass(people: Population) -> None:
    assert leaks(people) == []


def test_columns_that_whole_patients_share_pass() -> None:
    # Three patients have most of the malignant lesions: with independent lesions, their ages would
    # be significant.
    people = make(lesions=1500, positives=45, patients=30)
    patient = people.folds["patient_id"].str[3:].astype(int).to_numpy()
    target = np.where(
        np.isin(patient, [1, 2, 3]) & (np.arange(1500) % 2 == 0), 1, people.folds["target"]
    )
    rng = np.random.default_rng(1)
    shared = {
        f"shared_{number}": rng.normal(size=30).astype(np.float32)[patient] for number in range(60)
    }
    fold = people.folds["fold"].to_numpy()
    assert find_leaks(shared, target, fold, np.arange(1500)) != []
    assert find_leaks(shared, target, fold, patient) == []


def test_a_copy_of_the_target_is_named(people: Population) -> None:
    assert leaks(planted(people, np.full(len(people.folds), 4.0)))[0] == ("helpful", None)


def test_a_feature_made_from_the_held_out_folds_target_is_named_and_refused(
    people: Population,
) -> None:
    leaking = planted(people, 2.5 * (people.folds["fold"] == 1).to_numpy())
    assert leaks(leaking) == [("helpful", 1)]
    data = build_training_data(*leaking, settings().images, settings().params.max_bin)
    with pytest.raises(InputError, match="helpful leaks the target"):
        refuse_leaks(find_leaks(data.columns, data.target, data.fold, people.folds["patient_id"]))
    refuse_leaks([])


def test_a_fold_without_malignant_lesions_is_passed_over(people: Population) -> None:
    target = people.folds["target"].where(people.folds["fold"] != 2, 0).to_numpy()
    column = {"measure": people.features["measure_5"].to_numpy()}
    assert (
        find_leaks(column, target, people.folds["fold"].to_numpy(), people.folds["patient_id"])
        == []
    )


def test_a_column_of_one_value_is_no_leak_where_a_fold_has_two_patients() -> None:
    # Both patients share the fold's error evenly, so that it is nil: by it, the least gap is
    # millions of errors wide.
    fold = np.repeat([0, 1], [40, 160])
    patient = np.r_[np.repeat([0, 1], 20), np.repeat(np.arange(2, 18), 10)]
    target = np.zeros(200, dtype=np.int64)
    target[[0, 25, *range(40, 200, 20)]] = 1
    rare = np.zeros(200, dtype=np.float32)
    rare[[5, 30]] = 1
    assert find_leaks({"rare": rare}, target, fold, patient) == []


@pytest.fixture(scope="module")
def measured() -> Population:
    """Lesions with the official columns, more of them malignant in one place."""
    frame = lesions([15] * 90, seed=3)
    malignant = np.where(frame["tbp_lv_location"] == "Head & Neck", 0.3, 0.05)
    rng = np.random.default_rng(1)
    target = (rng.random(len(frame)) < malignant).astype(np.int64)
    fold = rng.permutation(90)[frame[PATIENT].str[3:].astype(int)] % 3
    return Population(
        build_features(frame, ["raw"]),
        {},
        frame[["isic_id", PATIENT]].assign(target=target, fold=fold),
    )


def test_fitted_columns_are_screened_chain_by_chain(
    measured: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = fitted.fitted_families()
    how = settings().images, settings().params.max_bin
    assert screen_leaks(build_training_data(*measured, *how, fitted=tuple(kinds))) == []

    def knowing(
        frame: pd.DataFrame, target: np.ndarray, patients: np.ndarray
    ) -> fitted.FittedColumns:
        """The rates, one of them with part of the label."""
        made = kinds["encoding"].apply(kinds["encoding"].fit(frame, target), frame)
        return made | {
            "fitted_rate__sex": (made["fitted_rate__sex"] - 0.1 * target).astype(np.float32)
        }

    leaking = kinds | {"encoding": replace(kinds["encoding"], training=knowing)}
    monkeypatch.setattr(fitted, "fitted_families", lambda: leaking)
    found = screen_leaks(build_training_data(*measured, *how, fitted=("encoding",)))
    assert {leak.column for leak in found} == {
        f"fitted_rate_sex of chain {number}" for number in range(3)
    }
