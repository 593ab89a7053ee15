"""Fitted columns: from training rows only, equal after a round trip through JSON, defined for
unknown levels.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isic.core.errors import InputError
from isic.core.schema import NUMERIC, PATIENT
from isic.tabular import build_features
from isic.tabular.families.fitted import encoding
from isic.tabular.fitted import Fitted, FittedColumns, fitted_families
from tests.tabular.population import lesions

KINDS = tuple(fitted_families())


@pytest.fixture(scope="module")
def train() -> pd.DataFrame:
    return lesions([100, 80, 60, 40], seed=31)


@pytest.fixture(scope="module")
def target(train: pd.DataFrame) -> np.ndarray:
    return (np.random.default_rng(0).random(len(train)) < 0.2).astype(int)


@pytest.fixture(scope="module")
def fitted(train: pd.DataFrame, target: np.ndarray) -> Fitted:
    return Fitted.fit(KINDS, train, target)


def _equal(one: FittedColumns, other: FittedColumns) -> None:
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_hospital_z_is_against_the_training_rows(train: pd.DataFrame, fitted: Fitted) -> None:
    other = lesions([5, 5], seed=32)
    by_hospital = train.groupby("attribution")["tbp_lv_H"]
    mean, sd = by_hospital.mean(), by_hospital.std(ddof=0)
    expected = (other["tbp_lv_H"] - other["attribution"].map(mean)) / (
        other["attribution"].map(sd) + 1e-5
    )
    np.testing.assert_allclose(fitted.columns(other)["fitted_hospital_z__H"], expected, rtol=1e-5)


def test_a_rare_combination_is_compared_with_the_coarser_one(train: pd.DataFrame) -> None:
    rare = train.assign(tbp_lv_location=["Left Leg"] * 5 + ["Head & Neck"] * (len(train) - 5))
    found = Fitted.fit(["hospital"], rare, np.zeros(len(rare))).columns(rare)
    np.testing.assert_array_equal(
        found["fitted_hospital_location_z__H"][:5],
        (
            (rare["tbp_lv_H"] - rare["tbp_lv_H"].mean()) / (rare["tbp_lv_H"].std(ddof=0) + 1e-5)
        ).astype(np.float32)[:5],
    )


def test_hospital_statistics_are_those_of_the_training_rows(
    train: pd.DataFrame, fitted: Fitted
) -> None:
    other = lesions([5, 5], seed=32)
    found, by_hospital = fitted.columns(other), train.groupby("attribution")
    for statistic in ("mean", "min", "max", "median"):
        expected = other["attribution"].map(by_hospital["tbp_lv_areaMM2"].agg(statistic))
        np.testing.assert_allclose(
            found[f"fitted_hospital_level__areaMM2_{statistic}"], expected, rtol=1e-6
        )
    share = other["attribution"].map(by_hospital.size() / len(train))
    np.testing.assert_allclose(found["fitted_hospital_share"], share, rtol=1e-6)


def test_kmeans_is_lloyds_fixed_point(train: pd.DataFrame, fitted: Fitted) -> None:
    state = fitted.states["kmeans"]
    centres = np.array(state["centres"])
    names = [name for name in NUMERIC if name not in ("age_approx", "tbp_lv_symm_2axis_angle")]
    names = [name for name in names if name not in ("tbp_lv_x", "tbp_lv_y", "tbp_lv_z")]
    points = (train[names].to_numpy() - np.array(state["mean"])) / (np.array(state["sd"]) + 1e-5)
    distance = ((points[:, None] - centres[None]) ** 2).sum(axis=2)
    member = distance.argmin(axis=1)
    for number in range(len(centres)):
        np.testing.assert_allclose(
            points[member == number].mean(axis=0), centres[number], atol=1e-9
        )
    found = fitted.columns(train)["fitted_cluster_distance"]
    np.testing.assert_allclose(found, np.sqrt(distance.min(axis=1)), rtol=1e-5)


def test_a_small_kind_of_lesion_is_compared_with_all(train: pd.DataFrame) -> None:
    strange = train.copy()
    # One lesion far from all others is a cluster of its own.
    strange.loc[0, "tbp_lv_H"] = 5000.0
    found = Fitted.fit(["kmeans"], strange, np.zeros(len(strange)))
    near = strange.iloc[[0]].assign(tbp_lv_H=4990.0)
    value = found.columns(near)["fitted_cluster_z__H"][0]
    whole = strange["tbp_lv_H"]
    assert value == pytest.approx((4990 - whole.mean()) / (whole.std(ddof=0) + 1e-5), rel=1e-5)
    # As is a measurement that few lesions of a cluster have.
    many = pd.concat([train] * 8, ignore_index=True)
    few = many["tbp_lv_L"].head(10)
    value = Fitted.fit(["kmeans"], many.assign(tbp_lv_L=few), np.zeros(len(many))).columns(train)[
        "fitted_cluster_z__L"
    ]
    np.testing.assert_allclose(
        value, (train["tbp_lv_L"] - few.mean()) / (few.std(ddof=0) + 1e-5), rtol=1e-4, atol=1e-5
    )


def test_target_rate_is_smoothed_towards_the_overall_one(
    train: pd.DataFrame, target: np.ndarray, fitted: Fitted
) -> None:
    women = (train["sex"] == "female").to_numpy()
    expected = (target[women].sum() + 50 * target.mean()) / (women.sum() + 50)
    np.testing.assert_allclose(
        fitted.columns(train)["fitted_rate__sex"][women], expected, rtol=1e-6
    )
    unknown = fitted.columns(train.head(2).assign(sex="unknown"))
    np.testing.assert_allclose(unknown["fitted_rate__sex"], target.mean(), rtol=1e-6)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 999))
def test_a_training_rows_columns_do_not_tell_its_own_patients_labels(
    train: pd.DataFrame, target: np.ndarray, fitted: Fitted, seed: int
) -> None:
    patient = train[PATIENT].iloc[seed % len(train)]
    mine = (train[PATIENT] == patient).to_numpy()
    other = np.where(mine, np.random.default_rng(seed).integers(0, 2, len(target)), target)
    one = fitted.training_columns(train, target, train[PATIENT])
    again = Fitted.fit(KINDS, train, other).training_columns(train, other, train[PATIENT])
    for name, values in one.items():
        # The overall rate is part of every row's rates, so it does not separate rows.
        scale = other.mean() / target.mean() if name.startswith("fitted_rate") else 1
        np.testing.assert_allclose(again[name][mine], values[mine] * scale, rtol=1e-5, err_msg=name)


def test_a_level_has_few_rates_in_training_and_no_part_of_the_patients_lower_ones(
    train: pd.DataFrame, target: np.ndarray, fitted: Fitted
) -> None:
    made = fitted.training_columns(train, target, train[PATIENT])
    for name in encoding.ENCODED:
        rates = (
            pd.Series(made[f"fitted_rate__{name}"]).groupby(train[name].fillna("none")).nunique()
        )
        assert rates.max() <= encoding.PARTS
    # With one level, lesions cannot be separated, for any labels of the parts.
    alike = train.assign(**dict.fromkeys(encoding.ENCODED, "one"))
    rates = Fitted.fit(["encoding"], alike, target).training_columns(alike, target, train[PATIENT])
    for values in rates.values():
        np.testing.assert_allclose(values, target.mean(), rtol=1e-6)


def test_training_rates_do_not_depend_on_the_order_of_rows(
    train: pd.DataFrame, target: np.ndarray, fitted: Fitted
) -> None:
    order = np.random.default_rng(2).permutation(len(train))
    mixed = train.iloc[order].reset_index(drop=True)
    made = fitted.training_columns(train, target, train[PATIENT])
    again = Fitted.fit(["encoding"], mixed, target[order]).training_columns(
        mixed, target[order], mixed[PATIENT]
    )
    for name, values in again.items():
        np.testing.assert_allclose(values, made[name][order], rtol=1e-6)


def test_one_patient_and_malignant_lesions_in_one_part_have_the_overall_rate(
    train: pd.DataFrame,
) -> None:
    alone = train[train[PATIENT] == train[PATIENT].iloc[0]]
    target = np.arange(len(alone)) % 2
    whole = (train[PATIENT] == train[PATIENT].iloc[0]).to_numpy() & (np.arange(len(train)) % 2 == 0)
    made = Fitted.fit(["encoding"], alone, target).training_columns(alone, target, alone[PATIENT])
    assert all((values == np.float32(target.mean())).all() for values in made.values())
    mine = (train[PATIENT] == train[PATIENT].iloc[0]).to_numpy()
    made = Fitted.fit(["encoding"], train, whole).training_columns(train, whole, train[PATIENT])
    assert all((values[mine] == np.float32(whole.mean())).all() for values in made.values())


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    seed=st.integers(0, 999),
    data=st.data(),
)
def test_state_survives_json_and_rows_do_not_influence_each_other(
    fitted: Fitted, sizes: list[int], seed: int, data: st.DataObject
) -> None:
    rows = lesions(sizes, seed)
    whole = fitted.columns(rows)
    _equal(Fitted(json.loads(json.dumps(fitted.states, allow_nan=False))).columns(rows), whole)
    some = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=9, unique=True))
    _equal(fitted.columns(rows.iloc[some]), {name: values[some] for name, values in whole.items()})


def test_the_unknown_is_compared_with_all(train: pd.DataFrame, fitted: Fitted) -> None:
    strange = {
        "attribution": "FNQH Cairns",
        "tbp_lv_location": "Left Ear",
        "anatom_site_general": None,
        "sex": None,
    }
    other = lesions([4], seed=33).assign(**strange)
    found = fitted.columns(other)
    expected = (other["tbp_lv_H"] - train["tbp_lv_H"].mean()) / (
        train["tbp_lv_H"].std(ddof=0) + 1e-5
    )
    np.testing.assert_allclose(found["fitted_hospital_z__H"], expected, rtol=1e-5)
    assert all(np.isfinite(values).all() for values in found.values())


def test_constant_and_absent_measurements_give_zero_and_missing(train: pd.DataFrame) -> None:
    odd = train.assign(tbp_lv_H=4.2, tbp_lv_L=np.nan)
    found = Fitted.fit(KINDS, odd, np.zeros(len(odd))).columns(odd)
    np.testing.assert_allclose(found["fitted_hospital_z__H"], 0, atol=1e-6)
    assert np.isnan(found["fitted_hospital_z__L"]).all()
    assert np.isfinite(found["fitted_cluster_distance"]).all()


def test_features_serve_as_well_as_metadata(train: pd.DataFrame, target: np.ndarray) -> None:
    features = build_features(train, ["raw"])
    found, expected = (
        Fitted.fit(KINDS[:3], rows, target).columns(rows) for rows in (features, train)
    )
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-3, err_msg=name)


def test_missing_columns_and_unknown_kinds_are_named(train: pd.DataFrame) -> None:
    for kind in KINDS:
        with pytest.raises(InputError, match="family `raw`"):
            Fitted.fit([kind], train[["isic_id"]], np.zeros(len(train)))
    with pytest.raises(InputError, match=r"`hospitals` in stack\.fitted"):
        Fitted.fit(["hospitals"], train, np.zeros(len(train)))


def test_every_fitted_column_is_in_the_catalogue(
    train: pd.DataFrame, target: np.ndarray, fitted: Fitted
) -> None:
    registered = [feature.name for kind in fitted_families().values() for feature in kind.features]
    for columns in (fitted.columns(train), fitted.training_columns(train, target, train[PATIENT])):
        assert list(columns) == registered == list(fitted.names)
        assert all(
            values.dtype == np.float32 and values.shape == (len(train),)
            for values in columns.values()
        )
