"""The map from score to probability: never certain, never falling, no worse than plain isotonic
regression.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import log_loss

from isic.core.calibration import calibrate_out_of_fold, fit_calibration


def simulated(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(target, score, true probability) at about .4 % malignant; the scores are over-confident by a
    factor of two.
    """
    random = np.random.default_rng(seed)
    logit = random.normal(-7.5, 2.0, count)
    true = expit(logit)
    return (random.random(count) < true).astype(int), expit(2 * logit), true


def test_isotonic_probabilities_are_never_certain_and_hold_on_other_lesions() -> None:
    target, score, _ = simulated(60_000, 0)
    assert target.sum() >= 200
    found = fit_calibration(target, score)
    assert found.kind == "isotonic"
    fresh, unseen, true = simulated(200_000, 1)
    probability = found(unseen)
    assert probability.min() > 0
    assert probability.max() < 1
    assert (np.diff(found(np.linspace(-1, 2, 10_001))) >= 0).all()
    plain = (
        IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        .fit(score, target)
        .predict(unseen)
    )
    # A malignant lesion with probability 0: the log loss is infinite, and large after any usual
    # clipping.
    assert plain[fresh == 1].min() == 0
    loss = log_loss(fresh, probability)
    assert loss < log_loss(fresh, np.clip(plain, 1e-15, 1 - 1e-15))
    assert loss < 1.03 * log_loss(fresh, true)
    assert loss < log_loss(fresh, unseen)


def test_the_ends_of_the_isotonic_map_count_one_lesion_more() -> None:
    """4 benign at the low end, 3 malignant at the high one, one of either swapped between."""
    target = np.array([0, 0, 0, 0, 1, 0, 1, 1, 1])
    found = fit_calibration(target, np.arange(9.0), "isotonic")
    np.testing.assert_allclose(
        found(np.array([-5.0, 0, 4.5, 8, 20])), [1 / 5, 1 / 5, 1 / 2, 3 / 4, 3 / 4]
    )


@pytest.mark.parametrize("target", [[0, 1], [1, 0], [0, 0, 0, 1], [1, 1, 1, 0]])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_handful_of_lesions_makes_nothing_certain(target: list[int], level: float) -> None:
    found = fit_calibration(np.array(target), level * np.arange(len(target)), "isotonic")
    said = found(np.array([-1.0, 0, 1, 2, 9]))
    assert ((said > 0) & (said < 1)).all()
    assert (np.diff(said) >= 0).all()


def test_out_of_fold_probabilities_are_not_certain_either() -> None:
    target, score, _ = simulated(80_000, 2)
    made = calibrate_out_of_fold(target, score, np.arange(len(target)) % 4)
    assert made is not None
    assert made[1] == "isotonic"
    assert 0 < made[0].min() < made[0].max() < 1
