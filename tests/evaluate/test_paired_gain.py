"""The gain's standard deviation: over patients and seeds, against brute force and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from isic.core.metric import paired_difference, pauc
from isic.evaluate.paired_gain import (
    PairedGain,
    chance_of,
    paired_gain,
    seed_scores,
    seed_variance,
)

SEEDS = 4


def _rows(rng: np.random.Generator, positives: int = 60) -> tuple[np.ndarray, np.ndarray]:
    target = np.zeros(2000, dtype=int)
    target[:positives] = 1
    return target, rng.integers(0, 300, len(target))


def _by_seed(rng: np.random.Generator, target: np.ndarray, noise: float = 1.0) -> np.ndarray:
    return 2.0 * target[:, None] + noise * rng.normal(size=(len(target), SEEDS))


def test_seed_variance_is_the_jackknife_written_out() -> None:
    rng = np.random.default_rng(3)
    target, _ = _rows(rng)
    values = _by_seed(rng, target)
    left_out = [
        pauc(target, np.mean([values[:, j] for j in range(SEEDS) if j != i], axis=0))
        for i in range(SEEDS)
    ]
    expected = (SEEDS - 1) / SEEDS * sum((v - sum(left_out) / SEEDS) ** 2 for v in left_out)
    assert seed_variance(target, values) == pytest.approx(expected, rel=1e-12)


def test_seed_variance_meets_the_variance_of_many_ensembles_on_average() -> None:
    rng = np.random.default_rng(4)
    target, _ = _rows(rng)
    signal = 2.0 * target + rng.normal(size=len(target))
    ensembles = [signal[:, None] + rng.normal(size=(len(target), SEEDS)) for _ in range(150)]
    actual = np.var([pauc(target, values.mean(axis=1)) for values in ensembles], ddof=1)
    estimated = np.mean([seed_variance(target, values) for values in ensembles])
    # Biased upwards, never far below.
    assert 0.8 * actual < estimated < 2 * actual


def test_the_patients_share_is_that_of_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(5)
    target, patient = _rows(rng)
    new, old = _by_seed(rng, target), _by_seed(rng, target)
    gain = paired_gain(target, new.mean(axis=1), old.mean(axis=1), patient, 500, 7)
    interval = paired_difference(target, new.mean(axis=1), old.mean(axis=1), patient, 500, 7)
    assert gain.value == interval.value
    assert gain.sd_seeds is None
    assert gain.high(0.025) - gain.low(0.025) == pytest.approx(
        interval.high - interval.low, rel=0.15
    )


def test_seeds_widen_the_gain_and_one_side_stands_for_the_other() -> None:
    rng = np.random.default_rng(6)
    target, patient = _rows(rng)
    new, old = _by_seed(rng, target), _by_seed(rng, target)
    scores = (target, new.mean(axis=1), old.mean(axis=1), patient, 200, 0)
    both = paired_gain(*scores, new, old)
    assert both.sd_seeds == pytest.approx(
        np.sqrt(seed_variance(target, new) + seed_variance(target, old))
    )
    assert both.sd == pytest.approx(np.hypot(both.sd_patients, both.sd_seeds))
    alone = paired_gain(*scores, new, None)
    assert alone.sd_seeds == pytest.approx(np.sqrt(2 * seed_variance(target, new)))
    single = paired_gain(*scores, new[:, :1], old[:, :1])
    assert single.sd_seeds is None, "one seed has no variance"


def test_bounds_are_normal_quantiles() -> None:
    gain = PairedGain(0.004, 0.0015, 0.002)
    assert gain.sd == pytest.approx(0.0025)
    assert gain.low(0.025) == pytest.approx(0.004 - 1.959964 * 0.0025, abs=1e-8)
    assert gain.high(0.025) == pytest.approx(0.004 + 1.959964 * 0.0025, abs=1e-8)


def test_all_attempts_together_err_with_less_than_twice_the_first_chance() -> None:
    chances = [chance_of(attempt, 0.03) for attempt in range(1, 100_000)]
    assert chances[0] == 0.03
    assert all(a > b for a, b in itertools.pairwise(chances))
    assert sum(chances) < 0.03 * np.pi**2 / 6


def test_columns_of_seeds_are_found_by_name() -> None:
    rows = pd.DataFrame(
        {"score": [1.0], "seed_0": [2.0], "seed_1": [3.0], "seed_0_champion": [4.0]}
    )
    np.testing.assert_array_equal(seed_scores(rows), [[2.0, 3.0]])
    np.testing.assert_array_equal(seed_scores(rows, "_champion"), [[4.0]])
    assert seed_scores(rows[["score"]]) is None
