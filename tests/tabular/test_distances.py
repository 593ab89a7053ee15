"""Neighbour features against scikit-learn and scipy."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from sklearn.cluster import DBSCAN
from sklearn.neighbors import LocalOutlierFactor
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from isic.core.schema import PATIENT
from isic.data.sample import write_sample
from isic.data.tables import read_metadata
from isic.tabular import build_features
from isic.tabular.canonical import canonical
from isic.tabular.registry import lesion_families
from isic.tabular.relative import official_column
from isic.tabular.spaces import DUCKLING, SPACES
from tests.conftest import ROOT
from tests.tabular.population import lesions

_OFFICIAL = {"diam": "clin_size_long_diam_mm"}


def _columns(frame: pd.DataFrame, names: tuple[str, ...]) -> np.ndarray:
    return frame[[_OFFICIAL.get(name, f"tbp_lv_{name}") for name in names]].to_numpy()


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return lesions([2, 3, 25, 150, 31, 1], seed=11).assign(
        age_approx=lambda rows: rows["age_approx"].fillna(60.0)
    )


@pytest.fixture(scope="module")
def features(frame: pd.DataFrame) -> pd.DataFrame:
    return build_features(frame)


def test_outlier_factor_is_scikit_learns(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    formulas = build_features(frame, ["age", "colour", "location", "texture"])
    known = [name for name in DUCKLING if name in formulas]
    values = pd.concat([formulas[known], pd.DataFrame(index=frame.index)], axis=1).astype(float)
    for name in DUCKLING:
        if name not in known:
            values[name] = frame[_OFFICIAL.get(name, f"tbp_lv_{name}")]
    for _, rows in frame.groupby(PATIENT):
        factor = features.loc[rows.index, "duckling_lof"]
        if len(rows) < 3:
            assert (factor == 1).all()
            continue
        scaled = StandardScaler().fit_transform(values.loc[rows.index, list(DUCKLING)])
        model = LocalOutlierFactor(n_neighbors=min(len(rows) - 1, 30)).fit(scaled)
        # The formulas are float32 here and float64 in the features.
        np.testing.assert_allclose(factor, -model.negative_outlier_factor_, rtol=1e-4)


def _against_scikit_learn(frame: pd.DataFrame) -> None:
    """Compare in float64, on the columns of the family."""
    lesions_in_order, order = canonical(frame)
    measured = [family.build(lesions_in_order) for family in lesion_families() if family.measured]
    wide = pd.concat([lesions_in_order, *measured], axis=1)
    values = np.column_stack([wide[official_column(name)].to_numpy() for name in DUCKLING])
    factor = build_features(frame, ["duckling"])["duckling_lof"].to_numpy()[order]
    for patient in wide[PATIENT].unique():
        rows = (wide[PATIENT] == patient).to_numpy()
        scaled = np.nan_to_num(StandardScaler().fit_transform(values[rows]))
        model = LocalOutlierFactor(n_neighbors=min(rows.sum() - 1, 30)).fit(scaled)
        np.testing.assert_allclose(factor[rows], -model.negative_outlier_factor_, rtol=1e-6)


def test_outlier_factor_with_gaps_and_tiny_values_is_scikit_learns() -> None:
    frame = lesions([5, 40, 90], seed=12)
    tiny = np.random.default_rng(0).random(len(frame)) * 1e-13
    _against_scikit_learn(frame)
    _against_scikit_learn(frame.assign(tbp_lv_nevi_confidence=tiny))
    _against_scikit_learn(frame.assign(tbp_lv_stdLExt=2.2))


def test_outlier_factor_of_realistic_rows_is_scikit_learns(tmp_path: Path) -> None:
    write_sample(tmp_path, patients=60, lesions=6000, positives=20, seed=3, images=False)
    frame = read_metadata(tmp_path / "train-metadata.csv", train=True)
    enough = frame.groupby(PATIENT)[PATIENT].transform("size") > 2
    _against_scikit_learn(frame[enough])


def test_cluster_sizes_are_scikit_learns(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    for _, rows in frame.sort_values("isic_id").groupby(
        [PATIENT, "anatom_site_general"], dropna=False
    ):
        scaled = MinMaxScaler().fit_transform(_columns(rows, SPACES["shape"]))
        label = DBSCAN(eps=0.5, min_samples=5).fit_predict(scaled)
        size = [1 if own < 0 else (label == own).sum() for own in label]
        np.testing.assert_array_equal(features.loc[rows.index, "cluster_shape_size"], size)


def test_distances_in_position_are_plain_ones(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    for _, rows in frame.groupby([PATIENT, "anatom_site_general"], dropna=False):
        if len(rows) < 2:
            continue
        distance = cdist(*[_columns(rows, SPACES["position"])] * 2)
        others = distance[~np.eye(len(rows), dtype=bool)].reshape(len(rows), -1)
        expected = [
            others.mean(1),
            np.median(others, axis=1),
            others.std(1),
            others.min(1),
            others.max(1),
        ]
        names = [f"similarity_position_{name}" for name in ("mean", "median", "sd", "min", "max")]
        np.testing.assert_allclose(
            features.loc[rows.index, names], np.stack(expected, axis=1), rtol=1e-5, atol=1e-6
        )


def test_the_nearest_lesion_is_the_nearest(frame: pd.DataFrame, features: pd.DataFrame) -> None:
    for _, rows in frame.groupby(PATIENT):
        distance = cdist(*[_columns(rows, SPACES["position"])] * 2)
        np.fill_diagonal(distance, np.inf)
        other = distance.argmin(axis=1) if len(rows) > 1 else np.zeros(1, dtype=int)
        hue = rows["tbp_lv_H"].to_numpy()
        np.testing.assert_allclose(
            features.loc[rows.index, "nearest__H"], hue - hue[other], atol=1e-5
        )


def test_mahalanobis_of_many_lesions_is_the_textbooks() -> None:
    frame = lesions([4000], seed=8)
    values = _columns(frame, SPACES["shape"])
    away = values - values.mean(axis=0)
    expected = np.sqrt(
        np.einsum("ij,jk,ik->i", away, np.linalg.inv(np.cov(values.T, ddof=0)), away)
    )
    np.testing.assert_allclose(
        build_features(frame, ["mahalanobis"])["mahalanobis_shape"], expected, rtol=0.01
    )


def test_a_planted_duckling_is_the_most_isolated() -> None:
    frame = lesions([80], seed=9)
    frame.loc[17, ["tbp_lv_H", "tbp_lv_Hext", "tbp_lv_deltaB", "tbp_lv_stdLExt"]] = [
        90.0,
        5.0,
        60.0,
        40.0,
    ]
    built = build_features(frame, ["duckling", "mahalanobis"])
    assert built["duckling_knn5"].idxmax() == 17
    assert built["mahalanobis_duckling"].idxmax() == 17


_NEIGHBOURS = ["clusters", "duckling", "mahalanobis", "nearest", "similarity"]


@pytest.mark.slow
def test_the_largest_patient_does_not_cost_its_square_in_memory() -> None:
    """Only the operating system can measure the memory of compiled kernels, hence a process of its
    own.
    """
    code = f"""
from pathlib import Path
from isic.tabular import build_features
from tests.tabular.population import lesions

def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024

frame = lesions([9184], seed=10).assign(anatom_site_general="head/neck")
build_features(frame.head(400), {_NEIGHBOURS})
before = peak()
build_features(frame, {_NEIGHBOURS})
print(peak() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    # One matrix of distances would be 9184² × 8 bytes = 675 MB.
    assert int(run.stdout) < 150e6


def test_a_large_patient_does_not_cost_its_square_in_memory() -> None:
    frame = lesions([4000], seed=10)
    families = _NEIGHBOURS
    build_features(frame.head(50), families)
    tracemalloc.start()
    build_features(frame, families)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # One matrix of distances alone would be 4000² × 8 bytes = 128 MB.
    assert peak < 40e6
