"""Features against pandas, and their invariances."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.schema import CATEGORICAL, ID, PATIENT, TRAIN_ONLY
from isic.tabular import build_features, feature_families
from tests.tabular.population import lesions


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return lesions([40, 1, 7, 120, 2], seed=3)


@pytest.fixture(scope="module")
def features(frame: pd.DataFrame) -> pd.DataFrame:
    return build_features(frame)


def test_rows_stay_in_order_and_columns_are_the_registered_ones(
    frame: pd.DataFrame, features: pd.DataFrame
) -> None:
    registered = [
        feature.name for family in feature_families().values() for feature in family.features
    ]
    assert list(features.columns) == [ID, *registered]
    assert features[ID].tolist() == frame[ID].tolist()
    combined = [feature.name for feature in feature_families()["combined"].features]
    numbers = [name for name in registered if name not in (*CATEGORICAL, *combined)]
    assert all(features[name].dtype == np.float32 for name in numbers)
    assert all(features[name].dtype == "str" for name in CATEGORICAL)
    assert all(features[name].dtype == "category" for name in combined)


def test_patient_z_is_what_pandas_computes(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    by_patient = frame.groupby(PATIENT)["tbp_lv_H"]
    expected = (frame["tbp_lv_H"] - by_patient.transform("mean")) / (
        by_patient.transform("std", ddof=0) + 1e-5
    )
    np.testing.assert_allclose(features["patient_z__H"], expected, atol=1e-6)


def test_patient_rank_is_what_pandas_computes(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    groups = frame.groupby(PATIENT)["clin_size_long_diam_mm"]
    share, half = groups.rank(pct=True), 0.5 / groups.transform("count")
    np.testing.assert_allclose(features["patient_rank__diam"], share - half, atol=1e-6)
    older = build_features(frame, ["patient_rank"], older_ranks=True)
    np.testing.assert_allclose(older["patient_rank__diam"], share, atol=1e-6)


def test_a_lesion_without_others_stands_in_the_middle(frame: pd.DataFrame) -> None:
    families = ["patient_rank", "site_rank", "location_rank", "location_simple_rank"]
    ranks = build_features(frame.drop_duplicates(PATIENT), families).drop(columns="isic_id")
    present = ranks.notna().to_numpy()
    assert present.any()
    assert (ranks.to_numpy()[present] == 0.5).all()


def test_formula_by_hand(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    expected = (frame["tbp_lv_H"] - frame["tbp_lv_Hext"]).abs()
    np.testing.assert_allclose(features["hue_contrast"], expected, rtol=1e-6, atol=1e-5)


def test_train_only_columns_change_nothing(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    leaking = frame.assign(**dict.fromkeys(TRAIN_ONLY, 1.0))
    pd.testing.assert_frame_equal(build_features(leaking), features)


def test_families_can_be_chosen(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    chosen = build_features(frame, ["patient_z", "raw"])
    pd.testing.assert_frame_equal(chosen, features[chosen.columns])
    assert not any(name in chosen for name in ("hue_contrast", "patient_rank__diam"))


def test_an_unknown_family_is_named(frame: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="`patient_zz`"):
        build_features(frame, ["raw", "patient_zz"])


def test_a_removed_family_names_its_last_version(frame: pd.DataFrame) -> None:
    with pytest.raises(
        InputError, match=r"`restated` in features.families was removed \(isic 0\.1\.0 is the last"
    ):
        build_features(frame, ["raw", "restated"])
