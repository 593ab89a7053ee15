"""Invariances of a patient's features: other patients, the order of rows, the size of a batch."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isic.core.schema import ID, NUMERIC, PATIENT
from isic.tabular import build_features, feature_families
from tests.tabular.population import lesions

_SETTINGS = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_MANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
_SIZES = st.lists(st.integers(1, 40), min_size=2, max_size=5)


def _population(sizes: list[int], seed: int) -> pd.DataFrame:
    """Patients of these sizes with gaps and infinities among the measurements and missing sites."""
    frame, rng = lesions(sizes, seed), np.random.default_rng(seed)
    for name in NUMERIC:
        frame.loc[rng.random(len(frame)) < 0.03, name] = rng.choice([np.nan, np.inf, -np.inf])
    frame.loc[rng.random(len(frame)) < 0.1, "anatom_site_general"] = None
    return frame


def _same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Equal to the last bit, rows matched by isic_id."""
    # The set of categories depends on the frame; the category of a row does not.
    texts = dict.fromkeys(
        (feature.name for feature in feature_families()["combined"].features), "str"
    )
    one, other = (frame.astype(texts).set_index(ID).sort_index() for frame in (one, other))
    pd.testing.assert_frame_equal(one, other.loc[one.index], check_exact=True)


def _patients_are_strangers(sizes: list[int], seed: int, data: st.DataObject) -> None:
    frame = _population(sizes, seed)
    kept = data.draw(st.sets(st.sampled_from(sorted(frame[PATIENT].unique())), min_size=1))
    _same(build_features(frame[frame[PATIENT].isin(kept)]), build_features(frame))


def _order_is_nothing(sizes: list[int], seed: int, order: int) -> None:
    frame = _population(sizes, seed)
    shuffled = frame.sample(frac=1, random_state=order)
    built = build_features(shuffled)
    assert built.index.equals(shuffled.index)
    _same(built, build_features(frame))


def _batches_are_nothing(sizes: list[int], seed: int) -> None:
    frame = _population(sizes, seed)
    batches = [build_features(rows) for _, rows in frame.groupby(PATIENT)]
    _same(pd.concat(batches), build_features(frame))


@_SETTINGS
@given(sizes=_SIZES, seed=st.integers(0, 999), data=st.data())
def test_adding_or_removing_patients_changes_nothing_for_the_others(
    sizes: list[int], seed: int, data: st.DataObject
) -> None:
    _patients_are_strangers(sizes, seed, data)


@_SETTINGS
@given(sizes=_SIZES, seed=st.integers(0, 999), order=st.integers(0, 999))
def test_the_order_of_rows_changes_nothing(sizes: list[int], seed: int, order: int) -> None:
    _order_is_nothing(sizes, seed, order)


@_SETTINGS
@given(sizes=_SIZES, seed=st.integers(0, 999))
def test_patients_one_by_one_give_what_all_at_once_give(sizes: list[int], seed: int) -> None:
    _batches_are_nothing(sizes, seed)


@pytest.mark.slow
@_MANY
@given(sizes=_SIZES, seed=st.integers(0, 9999), order=st.integers(0, 999), data=st.data())
def test_nothing_but_the_patient_matters_many_times_over(
    sizes: list[int], seed: int, order: int, data: st.DataObject
) -> None:
    _patients_are_strangers(sizes, seed, data)
    _order_is_nothing(sizes, seed, order)
    _batches_are_nothing(sizes, seed)


def test_large_patients_are_the_same_alone_and_in_company() -> None:
    # Beyond a few hundred rows, sums and matrix products are computed by block and by thread.
    frame = _population([1100, 257, 1, 33], seed=7)
    whole = build_features(frame)
    for patient in ("IP_0000000", "IP_0000001"):
        _same(build_features(frame[frame[PATIENT] == patient]), whole)


@_SETTINGS
@given(seed=st.integers(0, 999))
def test_a_patient_with_one_lesion_has_finite_features(seed: int) -> None:
    frame = lesions([1], seed).assign(age_approx=60.0)
    built = build_features(frame).select_dtypes("number")
    assert np.isfinite(built.to_numpy()).all()


@_SETTINGS
@given(
    column=st.sampled_from(NUMERIC),
    value=st.floats(0.1, 1e4, allow_nan=False),
    size=st.integers(2, 30),
)
def test_a_constant_column_gives_zero_differences(column: str, value: float, size: int) -> None:
    frame = lesions([size], seed=size).assign(age_approx=60.0).assign(**{column: value})
    built = build_features(frame).select_dtypes("number")
    assert np.isfinite(built.to_numpy()).all()
    short = {"clin_size_long_diam_mm": "diam", "age_approx": "age"}.get(
        column, column.removeprefix("tbp_lv_")
    )
    relative = (
        "patient_z",
        "site_z",
        "location_z",
        "patient_abs_z",
        "patient_position",
        "patient_median",
        "nearest",
    )
    for name in (f"{family}__{short}" for family in relative):
        if name in built:
            assert (built[name] == 0).all(), name


def test_equal_lesions_give_finite_features() -> None:
    frame = lesions([12], seed=1).assign(age_approx=60.0)
    frame.loc[:, list(NUMERIC)] = frame.loc[[0] * 12, list(NUMERIC)].to_numpy()
    built = build_features(frame).select_dtypes("number")
    assert np.isfinite(built.to_numpy()).all()
    np.testing.assert_allclose(built["duckling_lof"], 1.0)


def test_unseen_categories_are_values_like_any_other() -> None:
    frame = lesions([20, 5], seed=2)
    strange = frame.assign(
        attribution="FNQH Cairns",
        sex="unknown",
        tbp_lv_location="Left Ear",
        anatom_site_general="ear",
    )
    built = build_features(strange)
    assert (built["attribution"] == "FNQH Cairns").all()
    own = build_features(frame)
    pd.testing.assert_series_equal(built["patient_z__H"], own["patient_z__H"])


def test_missing_categories_are_a_group_of_their_own() -> None:
    frame = lesions([30], seed=4).assign(
        anatom_site_general=pd.Series([None, "head/neck"] * 15, dtype="str")
    )
    built = build_features(frame)
    missing = frame["anatom_site_general"].isna()
    values = frame["tbp_lv_H"][missing]
    expected = (values - values.mean()) / (values.std(ddof=0) + 1e-5)
    np.testing.assert_allclose(built["site_z__H"][missing], expected, atol=1e-6)
    assert (built["patient_site_count"][missing] == 15).all()


def test_a_missing_age_is_missing_only_where_age_is_asked() -> None:
    frame = lesions([10], seed=5).assign(age_approx=[np.nan, *[50.0] * 9])
    row = build_features(frame).select_dtypes("number").iloc[0]
    # The distances fill it with the patient's mean; everything else that knows no age is untouched.
    asked = ("age", "visit", "nevi_confidence_2")
    assert all(
        any(word in name for word in asked) for name in row.index[row.isna()] if "size" not in name
    )
    assert np.isfinite(
        row[[name for name in row.index if name.startswith(("duckling", "mahalanobis"))]].astype(
            float
        )
    ).all()


def test_no_rows_give_no_features() -> None:
    frame = lesions([3], seed=1)
    assert len(build_features(frame.iloc[:0])) == 0
