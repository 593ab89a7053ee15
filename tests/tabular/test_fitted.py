"""Fitted columns: learnt from training rows only, the same after a trip through JSON, safe with the unknown."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.schema import PATIENT
from isic.tabular import build_features
from isic.tabular.fitted import (
    apply_encoding,
    apply_hospital,
    encode_training,
    fit_encoding,
    fit_hospital,
    fitted_features,
)
from tests.tabular.population import lesions


@pytest.fixture(scope="module")
def train() -> pd.DataFrame:
    return lesions([100, 80, 60, 40], seed=31)


@pytest.fixture(scope="module")
def target(train: pd.DataFrame) -> np.ndarray:
    return (np.random.default_rng(0).random(len(train)) < 0.2).astype(int)


def test_hospital_z_is_against_the_training_rows(train: pd.DataFrame) -> None:
    state = fit_hospital(train)
    other = lesions([5, 5], seed=32)
    found = apply_hospital(state, other)
    by_hospital = train.groupby("attribution")["tbp_lv_H"]
    mean, sd = by_hospital.mean(), by_hospital.std(ddof=0)
    expected = (other["tbp_lv_H"] - other["attribution"].map(mean)) / (other["attribution"].map(sd) + 1e-5)
    np.testing.assert_allclose(found["fitted_hospital_z__H"], expected, rtol=1e-5)


def test_state_survives_json_and_rows_do_not_influence_each_other(train: pd.DataFrame) -> None:
    state = fit_hospital(train)
    again = json.loads(json.dumps(state))
    whole = apply_hospital(state, train)
    pd.testing.assert_frame_equal(apply_hospital(again, train), whole)
    pd.testing.assert_frame_equal(apply_hospital(state, train.iloc[[7]]), whole.iloc[[7]])


def test_an_unknown_hospital_is_compared_with_all(train: pd.DataFrame) -> None:
    other = lesions([4], seed=33).assign(attribution="FNQH Cairns")
    found = apply_hospital(fit_hospital(train), other)
    expected = (other["tbp_lv_H"] - train["tbp_lv_H"].mean()) / (train["tbp_lv_H"].std(ddof=0) + 1e-5)
    np.testing.assert_allclose(found["fitted_hospital_z__H"], expected, rtol=1e-5)
    assert np.isfinite(found.to_numpy()).all()


def test_features_serve_as_well_as_metadata(train: pd.DataFrame) -> None:
    features = build_features(train, ["raw"])
    from_features = apply_hospital(fit_hospital(features), features)
    np.testing.assert_allclose(from_features, apply_hospital(fit_hospital(train), train), rtol=1e-3, atol=1e-3)


def test_target_rate_is_smoothed_towards_the_overall_one(train: pd.DataFrame, target: np.ndarray) -> None:
    found = apply_encoding(fit_encoding(train, target), train)["fitted_rate__sex"]
    women = (train["sex"] == "female").to_numpy()
    expected = (target[women].sum() + 50 * target.mean()) / (women.sum() + 50)
    np.testing.assert_allclose(found[women], expected, rtol=1e-6)
    unknown = apply_encoding(fit_encoding(train, target), train.head(2).assign(sex="unknown"))
    np.testing.assert_allclose(unknown["fitted_rate__sex"], target.mean(), rtol=1e-6)


def test_a_training_rows_rate_does_not_know_its_own_patient(train: pd.DataFrame, target: np.ndarray) -> None:
    found = encode_training(train, target)
    first = (train[PATIENT] == train[PATIENT].iloc[0]).to_numpy()
    # What the own patient's labels were must not matter, beyond the overall rate they are part of.
    flipped = target.copy()
    flipped[np.flatnonzero(first)] = np.random.default_rng(1).permutation(target[first])
    again = encode_training(train, flipped)
    pd.testing.assert_frame_equal(found[first], again[first])


def test_a_missing_column_is_named(train: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="family `raw`"):
        fit_hospital(train.drop(columns="attribution"))


def test_every_fitted_column_is_in_the_catalogue(train: pd.DataFrame, target: np.ndarray) -> None:
    registered = fitted_features()
    hospital = apply_hospital(fit_hospital(train), train)
    assert list(hospital.columns) == [feature.name for feature in registered["hospital"]]
    encoding = apply_encoding(fit_encoding(train, target), train)
    assert list(encoding.columns) == [feature.name for feature in registered["encoding"]]
