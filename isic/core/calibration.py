"""Probabilities from scores: a monotone map fitted on out-of-fold rows, stored as plain numbers.

The ranking metric ignores calibration, so scores are not changed, and this map is applied where a
probability is needed. Isotonic regression overfits with few malignant lesions, hence Platt's two
parameters below a limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from isic.core.errors import InputError

#: Isotonic regression overtakes Platt's sigmoid near a thousand points (Niculescu-Mizil & Caruana,
#: ICML 2005); at this prevalence the number of malignant lesions decides.
_ISOTONIC_FROM = 200


@dataclass(frozen=True)
class Calibration:
    """A non-decreasing map from score to probability.

    kind "platt": sigmoid(slope · z(score) + offset), z the log-odds of scores in (0, 1) or else the
    score itself. kind "isotonic": linear interpolation between (xs, ys), constant outside; a map
    fitted here is never 0 or 1.
    """

    kind: str
    odds: bool
    slope: float = 0.0
    offset: float = 0.0
    xs: tuple[float, ...] = ()
    ys: tuple[float, ...] = ()

    def __call__(self, score: np.ndarray) -> np.ndarray:
        """Probability in [0, 1] for each score, float64."""
        score = np.asarray(score, dtype=np.float64)
        if self.kind == "isotonic":
            return np.interp(score, self.xs, self.ys)
        return np.asarray(expit(self.slope * _axis(score, self.odds) + self.offset))

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "odds": self.odds,
            "slope": self.slope,
            "offset": self.offset,
            "xs": list(self.xs),
            "ys": list(self.ys),
        }


def fit_calibration(target: np.ndarray, score: np.ndarray, kind: str | None = None) -> Calibration:
    """Fit the map on out-of-fold rows; `kind` is chosen by the number of malignant lesions unless
    given.

    Raises InputError when one class is absent.
    """
    target, score = np.asarray(target), np.asarray(score, dtype=np.float64)
    positives = int(target.sum())
    if not 0 < positives < len(target):
        raise InputError(
            "calibration needs malignant and benign lesions: these rows hold one class only"
        )
    kind = kind or ("isotonic" if positives >= _ISOTONIC_FROM else "platt")
    if kind == "isotonic":
        return _isotonic(target, score)
    return _platt(target, score)


def calibrate_out_of_fold(
    target: np.ndarray, score: np.ndarray, fold: np.ndarray
) -> tuple[np.ndarray, str] | None:
    """Probabilities, each fold's by a map fitted on the other folds, and the kind of map.

    None with one fold only, or when the other folds of a fold hold one class only.
    """
    target, score = np.asarray(target), np.asarray(score, dtype=np.float64)
    probability = np.full(len(score), np.nan)
    kind = "isotonic" if int(target.sum()) >= _ISOTONIC_FROM else "platt"
    for held_out in np.unique(fold):
        held, rest = fold == held_out, fold != held_out
        if not 0 < int(target[rest].sum()) < int(rest.sum()):
            return None
        probability[held] = fit_calibration(target[rest], score[rest], kind)(score[held])
    return probability, kind


def _axis(score: np.ndarray, odds: bool) -> np.ndarray:
    if not odds:
        return score
    clipped = np.clip(score, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def _platt(target: np.ndarray, score: np.ndarray) -> Calibration:
    odds = bool(score.min() >= 0 and score.max() <= 1)
    axis = _axis(score, odds)
    centre, spread = float(axis.mean()), float(axis.std()) or 1.0
    positives = int(target.sum())
    # Platt's smoothed targets keep the slope finite when the classes separate.
    smooth = np.where(
        target == 1, (positives + 1) / (positives + 2), 1 / (len(target) - positives + 2)
    )
    z = (axis - centre) / spread

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logit = parameters[0] * z + parameters[1]
        value = np.mean(np.logaddexp(0, logit) - smooth * logit)
        residual = expit(logit) - smooth
        return float(value), np.array([np.mean(residual * z), np.mean(residual)])

    start = np.array([1.0, np.log(positives / (len(target) - positives))])
    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)]).x
    return Calibration(
        "platt",
        odds,
        slope=float(fitted[0] / spread),
        offset=float(fitted[1] - fitted[0] * centre / spread),
    )


def _isotonic(target: np.ndarray, score: np.ndarray) -> Calibration:
    """Isotonic regression with a malignant lesion added at the lowest score and a benign one at the
    highest.

    Without them the map is 0 below the lowest malignant lesion and 1 above the highest benign one,
    and one lesion on the wrong side makes the log loss infinite. With k malignant of the n lesions
    at or below a score, the least probability is the minimum over scores of (k + 1) / (n + 1),
    hence 1 / (n + 1) for n benign ones at the end; the greatest is, from above, the maximum of k /
    (n + 1). These are the bounds that a Venn-Abers predictor (Vovk & Petej, UAI 2014,
    arXiv:1211.0025) gives to a lesion beyond either end under the opposite label.
    """
    score, target = np.append(score, [score.min(), score.max()]), np.append(target, [1, 0])
    # Imported late: few malignant lesions need only the sigmoid.
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(score, target)
    xs, ys = fitted.X_thresholds_, fitted.y_thresholds_
    return Calibration("isotonic", False, xs=tuple(map(float, xs)), ys=tuple(map(float, ys)))
