"""Patient-relative families against the same formulas in pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from isic.core.schema import PATIENT
from isic.tabular import build_features, feature_families
from tests.tabular.population import lesions

SITE = "anatom_site_general"
LOCATION = "tbp_lv_location"


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return lesions([60, 1, 2, 35], seed=21)


@pytest.fixture(scope="module")
def features(frame: pd.DataFrame) -> pd.DataFrame:
    return build_features(frame)


def _close(values: pd.Series, expected: pd.Series) -> None:
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)


def test_z_within_parts_of_the_patient(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    for family, key in (("site", SITE), ("location", LOCATION), ("tile", "tbp_tile_type")):
        groups = frame.groupby([PATIENT, key], dropna=False)["tbp_lv_B"]
        expected = (frame["tbp_lv_B"] - groups.transform("mean")) / (
            groups.transform("std", ddof=0) + 1e-5
        )
        _close(features[f"{family}_z__B"], expected)


def test_formulas_within_parts_of_the_patient(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    keys = {
        "site_formula_z": [SITE],
        "location_formula_z": [LOCATION],
        "location_simple_formula_z": ["tbp_lv_location_simple"],
        "tile_formula_z": ["tbp_tile_type"],
        "location_tile_formula_z": [LOCATION, "tbp_tile_type"],
    }
    contrast = (frame["tbp_lv_norm_border"] * frame["tbp_lv_norm_color"]).rename("value")
    for family, parts in keys.items():
        groups = frame.assign(value=contrast).groupby([PATIENT, *parts], dropna=False)["value"]
        expected = (contrast - groups.transform("mean")) / (groups.transform("std", ddof=0) + 1e-5)
        _close(features[f"{family}__border_color_interaction"], expected)


def test_every_measurement_and_formula_has_a_z_in_every_grouping(features: pd.DataFrame) -> None:
    """As published: over every numeric and engineered column."""
    wanted = {
        name.removeprefix("patient_z__") for name in features if name.startswith("patient_z__")
    }
    for part in ("site", "location", "location_simple", "tile", "location_tile"):
        families = (f"{part}_z__", f"{part}_formula_z__")
        assert {n.partition("__")[2] for n in features if n.startswith(families)} == wanted
    pairs = [feature.name for feature in feature_families()["colour_pairs"].features]
    assert all(f"patient_pairs_z__{name}" in features for name in pairs)


def test_pairs_within_the_patient(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    ratio = (frame["tbp_lv_A"] / (frame["tbp_lv_B"] + 1e-5)).rename("ratio")
    groups = frame.assign(ratio=ratio).groupby(PATIENT)["ratio"]
    expected = (ratio - groups.transform("mean")) / (groups.transform("std", ddof=0) + 1e-5)
    _close(features["patient_pairs_z__A_by_B"], expected)


def test_combined_categories(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    expected = frame[SITE] + "_" + frame[LOCATION]
    pd.testing.assert_series_equal(
        features["combined_anatomical_site"].astype("str"), expected, check_names=False
    )
    three = frame["sex"] + "_" + frame["tbp_tile_type"] + "_" + frame["attribution"]
    pd.testing.assert_series_equal(
        features["combined_sex_tile_hospital"].astype("str"), three, check_names=False
    )


def test_ranks_within_parts_of_the_patient(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    groups = frame.groupby([PATIENT, LOCATION])["tbp_lv_areaMM2"]
    expected = (groups.rank() - 0.5) / groups.transform("count")
    _close(features["location_rank__areaMM2"], expected)


def test_level_position_ratio_and_median(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    values, groups = frame["tbp_lv_H"], frame.groupby(PATIENT)["tbp_lv_H"]
    low, high = groups.transform("min"), groups.transform("max")
    _close(features["patient_level__H_mean"], groups.transform("mean"))
    _close(features["patient_level__H_sd"], groups.transform("std", ddof=0))
    _close(features["patient_position__H"], ((values - low) / (high - low)).fillna(0.0))
    _close(features["patient_ratio__H"], values / (high + 1e-5))
    _close(features["patient_mean_ratio__H"], values / (groups.transform("mean") + 1e-5))
    _close(features["patient_median__H"], values - groups.transform("median"))


def test_skewness_is_the_population_one(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    for _, rows in frame.groupby(PATIENT):
        expected = stats.skew(rows["tbp_lv_H"]) if len(rows) > 1 else 0.0
        np.testing.assert_allclose(
            features.loc[rows.index, "patient_level__H_skew"], expected, rtol=1e-5, atol=1e-6
        )


def test_far_out_measurements_are_counted(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    sizes = features[[name for name in features if name.startswith("patient_abs_z__")]]
    assert (features["patient_abs_z_far"] == (sizes > 2).sum(axis=1)).all()
    _close(features["patient_abs_z_max"], sizes.max(axis=1))
    _close(features["patient_abs_z__H"], features["patient_z__H"].abs())


def test_anchors_are_the_largest_and_smallest_lesion(
    frame: pd.DataFrame, features: pd.DataFrame
) -> None:
    area = frame.groupby(PATIENT)["tbp_lv_areaMM2"]
    for anchor, rows in (
        ("largest", area.transform("idxmax")),
        ("smallest", area.transform("idxmin")),
    ):
        other = frame.loc[rows].set_axis(frame.index)
        _close(features[f"patient_{anchor}__H"], frame["tbp_lv_H"] - other["tbp_lv_H"])
        ratio = frame["clin_size_long_diam_mm"] / (other["clin_size_long_diam_mm"] + 1e-5)
        _close(features[f"patient_{anchor}_ratio__diam"], ratio)


def test_counts_and_areas(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    patient, site = frame.groupby(PATIENT), frame.groupby([PATIENT, SITE], dropna=False)
    _close(features["patient_count"], patient["isic_id"].transform("size"))
    _close(features["patient_site_count"], site["isic_id"].transform("size"))
    _close(features["patient_area"], patient["tbp_lv_areaMM2"].transform("sum"))
    _close(features["patient_site_area"], site["tbp_lv_areaMM2"].transform("sum"))
    heads = (frame[SITE] == "head/neck").groupby(frame[PATIENT]).transform("sum")
    _close(features["patient_count_site_head_neck"], heads)
    legs = (frame[LOCATION] == "Left Leg - Lower").groupby(frame[PATIENT]).transform("sum")
    _close(features["patient_count_location_left_leg_lower"], legs)
    size = (patient["clin_size_long_diam_mm"].rank() - 1) / patient["isic_id"].transform("size")
    _close(features["patient_size_rank"], size)


def test_levels_of_a_location(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    groups = frame.groupby([PATIENT, LOCATION])["tbp_lv_areaMM2"]
    for statistic in ("mean", "min", "max", "sum", "median"):
        _close(features[f"location_level__areaMM2_{statistic}"], groups.transform(statistic))


def test_visits_follow_age() -> None:
    frame = lesions([6], seed=1).sort_values("isic_id", ignore_index=True)
    frame = frame.assign(
        age_approx=[50.0, 50.0, 55.0, 55.0, 65.0, np.nan],
        anatom_site_general=pd.Series(["head/neck"] * 5 + ["head/neck"], dtype="str"),
        tbp_lv_H=[40.0, 50.0, 60.0, 70.0, 80.0, 90.0],
    )
    built = build_features(frame, ["visits"])
    np.testing.assert_array_equal(built["visit_years_since_first"], [0, 0, 5, 5, 15, np.nan])
    np.testing.assert_allclose(built["visit_phase"], [0, 0, 1 / 3, 1 / 3, 1, np.nan], rtol=1e-5)
    np.testing.assert_array_equal(built["visit_count"], [3] * 6)
    np.testing.assert_array_equal(built["visit_lesions"], [2, 2, 2, 2, 1, np.nan])
    # Earlier visits at the site: none, then 45 on average, then 55.
    np.testing.assert_allclose(built["visit_change__H"], [0, 0, 15, 25, 25, np.nan])
    # The visit before at the site: none, then 45 on average, then 65.
    np.testing.assert_allclose(built["visit_step__H"], [0, 0, 15, 25, 15, np.nan])


def test_a_later_visit_does_not_change_the_comparison_with_earlier_ones() -> None:
    frame = lesions([30], seed=6).assign(age_approx=np.repeat([40.0, 45.0, 50.0], 10))
    earlier = frame[frame["age_approx"] < 50]
    names = ["visit_change__H", "visit_step__H", "visit_years_since_first"]
    expected = build_features(frame, ["visits"]).loc[earlier.index, names]
    pd.testing.assert_frame_equal(build_features(earlier, ["visits"])[names], expected)
