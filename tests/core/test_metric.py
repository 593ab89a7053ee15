"""The metric against the official algorithm, a brute-force integral, and scikit-learn's
standardised partial AUC.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc as area
from sklearn.metrics import roc_auc_score, roc_curve

from isic.core.errors import InputError
from isic.core.metric import (
    auc,
    paired_difference,
    patient_weights,
    pauc,
    pauc_interval,
    pauc_replicates,
    top15,
    top15_sensitivity,
)


def swapped_roc_area(target: np.ndarray, score: np.ndarray) -> float:
    """The official recipe: classes and sign swapped, the curve cut at 0.2 by interpolation,
    trapezoids.
    """
    limit = abs(1 - 0.8)
    fpr, tpr, _ = roc_curve(1 - target, -score)
    stop = np.searchsorted(fpr, limit, "right")
    cut = np.interp(limit, fpr[stop - 1 : stop + 1], tpr[stop - 1 : stop + 1])
    return float(area(np.append(fpr[:stop], limit), np.append(tpr[:stop], cut)))


def brute_force(target: np.ndarray, score: np.ndarray) -> float:
    """Integral over malignant shares 0..0.2 of the benign share below, threshold by threshold, no
    library.
    """
    points = [(0.0, 0.0)]
    for threshold in sorted(set(score.tolist())):
        kept = score <= threshold
        points.append((kept[target == 1].mean(), kept[target == 0].mean()))
    total = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        end = min(x1, 1 - 0.8)
        if end > x0:
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            total += (end - x0) * (y0 + y_end) / 2
    return float(total)


@st.composite
def labelled_scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    size = draw(st.integers(2, 60))
    target = np.array(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    target[0], target[1] = 0, 1
    # Few distinct values make ties; the full range makes huge and tiny gaps.
    values = st.one_of(st.integers(-4, 4).map(float), st.floats(-1e6, 1e6, allow_nan=False))
    return target, np.array(draw(st.lists(values, min_size=size, max_size=size)))


@given(labelled_scores())
@settings(max_examples=300, deadline=None)
def test_equals_brute_force_official_and_mcclish(case: tuple[np.ndarray, np.ndarray]) -> None:
    target, score = case
    value = pauc(target, score)
    share = 1 - 0.8
    mcclish = roc_auc_score(1 - target, -score, max_fpr=share)
    assert value == pytest.approx(brute_force(target, score), abs=1e-12)
    assert value == pytest.approx(swapped_roc_area(target, score), abs=1e-12)
    assert value == pytest.approx(
        0.5 * share**2 + (share - 0.5 * share**2) / 0.5 * (mcclish - 0.5), abs=1e-12
    )
    assert auc(target, score) == pytest.approx(roc_auc_score(target, score), abs=1e-12)
    assert 0 <= value <= 0.2


@given(labelled_scores(), st.sampled_from(["affine", "rank", "negative"]))
@settings(max_examples=100, deadline=None)
def test_only_the_order_matters(case: tuple[np.ndarray, np.ndarray], how: str) -> None:
    target, score = case
    order = np.unique(score, return_inverse=True)[1].astype(float)
    moved = {"affine": order * 4 + 3, "rank": order / (order.max() + 1), "negative": order - 1e6}[
        how
    ]
    assert pauc(target, moved) == pytest.approx(pauc(target, score), abs=1e-12)


def test_perfect_constant_inverted_and_random() -> None:
    target = np.repeat([0, 1], [900, 100])
    assert pauc(target, target) == pytest.approx(0.2, abs=1e-15)
    assert pauc(target, np.full(1000, 7.0)) == pytest.approx(0.02, abs=1e-15)
    assert pauc(target, -target) == 0
    rng = np.random.default_rng(0)
    assert np.mean([pauc(target, rng.random(1000)) for _ in range(200)]) == pytest.approx(
        0.02, abs=0.002
    )


def test_tiny_and_large_scores_keep_their_order() -> None:
    rng = np.random.default_rng(1)
    target, score = (rng.random(500) < 0.2).astype(int), rng.random(500)
    assert pauc(target, score * 1e-18) == pauc(target, score)
    assert pauc(target, score + 5) == pytest.approx(pauc(target, score), abs=1e-12)
    small = (score * 1e-10).astype(np.float32)
    assert pauc(target, small) == pytest.approx(pauc(target, score.astype(np.float32)), abs=1e-9)


def test_ties_run_along_the_diagonal() -> None:
    # 80 % of the malignant are perfect, 20 % are tied with every benign lesion.
    target = np.repeat([0, 1], [1000, 100])
    score = np.r_[np.zeros(1000), np.ones(80), np.zeros(20)]
    assert pauc(target, score) == pytest.approx(0.1, abs=1e-15)


@pytest.mark.parametrize(
    ("positives", "low", "high"),
    [(1, 0.09, 0.115), (2, 0.06, 0.08), (5, 0.027, 0.037), (20, 0.02, 0.028)],
)
def test_few_positives_inflate_random_scores(positives: int, low: float, high: float) -> None:
    rng = np.random.default_rng(positives)
    target = np.repeat([0, 1], [2000, positives])
    values = [pauc(target, rng.random(len(target))) for _ in range(600)]
    assert low < float(np.mean(values)) < high


@pytest.mark.parametrize(
    ("target", "score", "said"),
    [
        ([0, 0, 0], [1, 2, 3], "benign"),
        ([1, 1, 1], [1, 2, 3], "malignant"),
        ([0, 1, 0], [1, np.nan, 3], "NaN"),
        ([0, 1, 0], [1, np.inf, 3], "infinite"),
        ([0, 2, 0], [1, 2, 3], "0 and 1"),
        ([0, 1], [1, 2, 3], "shape"),
        ([0, 1], ["a", "b"], "not numbers"),
        ([], [], "no rows"),
    ],
)
def test_says_what_is_wrong(target: list, score: list, said: str) -> None:
    for metric in (pauc, auc):
        with pytest.raises(InputError, match=said):
            metric(target, score)


def population(rng: np.random.Generator, patients: int, lesions: int) -> pd.DataFrame:
    patient = rng.integers(0, patients, lesions)
    target = (rng.random(lesions) < 0.08).astype(int)
    score = rng.normal(size=lesions) + 1.5 * target + rng.normal(size=patients)[patient]
    return pd.DataFrame(
        {"patient": [f"P{p}" for p in patient], "target": target, "score": np.round(score, 1)}
    )


def test_replicates_equal_resampled_rows() -> None:
    rows = population(np.random.default_rng(3), 25, 400)
    other = -(rows["score"] ** 2)
    fast = pauc_replicates(rows["target"], [rows["score"], other], rows["patient"], 150, seed=5)
    codes = np.unique(rows["patient"].astype(str), return_inverse=True)[1]
    weights = np.concatenate(list(patient_weights(rows["target"], codes, 150, seed=5)))
    for replicate, weight in enumerate(weights):
        drawn = np.repeat(np.arange(len(rows)), weight[codes].astype(int))
        target = rows["target"].to_numpy()[drawn]
        for column, score in enumerate((rows["score"], other)):
            expected = swapped_roc_area(target, score.to_numpy()[drawn])
            assert fast[column, replicate] == pytest.approx(expected, abs=1e-12)


def test_resamples_draw_patients_and_stay_usable() -> None:
    # One patient holds all malignant lesions: without redrawing, a third of the resamples would
    # have none.
    patient = np.repeat(np.arange(6), 10)
    target = (patient == 0).astype(int)
    score = np.random.default_rng(0).random(60)
    weights = np.concatenate(list(patient_weights(target, patient, 200, seed=0)))
    assert weights.shape == (200, 6)
    assert (weights.sum(axis=1) == 6).all()
    assert (weights[:, 0] > 0).all()
    assert np.isfinite(pauc_replicates(target, [score], patient, 200)).all()


def test_interval_holds_the_value_and_ignores_row_order() -> None:
    rows = population(np.random.default_rng(4), 60, 900)
    interval = pauc_interval(rows["target"], rows["score"], rows["patient"], 300, seed=1)
    assert interval.low < interval.value < interval.high
    assert interval.value == pauc(rows["target"], rows["score"])
    shuffled = rows.sample(frac=1, random_state=0)
    again = pauc_interval(shuffled["target"], shuffled["score"], shuffled["patient"], 300, seed=1)
    assert again == pytest.approx(interval, abs=1e-12)


def test_paired_difference_is_narrower_than_its_parts() -> None:
    rows = population(np.random.default_rng(5), 60, 2000)
    rows["near"] = rows["score"] + np.random.default_rng(6).normal(0, 0.05, len(rows))
    same = paired_difference(rows["target"], rows["score"], rows["score"], rows["patient"], 200)
    assert same == (0, 0, 0)
    difference = paired_difference(
        rows["target"], rows["score"], rows["near"], rows["patient"], 200
    )
    single = pauc_interval(rows["target"], rows["score"], rows["patient"], 200)
    assert difference.high - difference.low < (single.high - single.low) / 2
    assert difference.low <= difference.value <= difference.high


def official_top15(
    patient: np.ndarray, target: np.ndarray, score: np.ndarray
) -> tuple[float, float, float]:
    """The official script's steps on one frame."""
    frame = pd.DataFrame({"patient": patient, "target": target, "score": score})
    frame = frame[frame.groupby("patient")["target"].transform("sum") > 0]
    share = frame["target"] / frame.groupby("patient")["target"].transform("sum")
    top = pd.concat([group.nlargest(15, "score") for _, group in frame.groupby("patient")])
    rank = top.groupby("patient")["score"].rank(method="dense") / 15
    patients = frame["patient"].nunique()
    kept = share.loc[top.index]
    return (
        kept.sum() / patients,
        (kept * rank).sum() / patients,
        top["target"].sum() / frame["target"].sum(),
    )


@given(st.integers(0, 10_000), st.sampled_from([0, 1, 3]))
@settings(max_examples=40, deadline=None)
def test_top15_equals_the_official_script(seed: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, 6, 150)
    target = (rng.random(150) < 0.1).astype(int)
    target[0] = 1
    score = np.round(rng.random(150) + 0.1 * target, digits)
    assert tuple(top15(patient, target, score)) == pytest.approx(
        official_top15(patient, target, score), abs=1e-12
    )
    assert top15_sensitivity(patient, target, score) == top15(patient, target, score).sensitivity


def test_top15_needs_a_malignant_lesion() -> None:
    with pytest.raises(InputError, match="benign"):
        top15(["a", "b"], [0, 0], [1, 2])
    assert top15(["a"], [1], [0.5]) == (1.0, pytest.approx(1 / 15), 1.0)
