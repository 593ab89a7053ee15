"""Late combination of the stacker's log-odds with and without image columns and the image logit.

Boosting dilutes a few image columns among hundreds of others. A logistic model of three numbers
does not: the log-odds of members that read features alone, those of members that read image columns
too, and the mean standardised image logit. Its weights are not negative, and are shrunk towards
fixed ones: fewer malignant lesions move them less. Each fold's weights are fitted on the other
folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.optimize import minimize
from scipy.special import expit

from isic.core.metric import Floats

#: Weights of the three numbers without data, and the ridge that holds them there. Chosen on
#: generated populations of other seeds than the ones that benchmarks/stack_modes.py judges.
PRIOR = (0.7, 0.3, 0.2)
RIDGE = 40.0

#: Least sum of the first two weights by which the others are divided.
_SMALLEST = 0.02


@dataclass(frozen=True)
class Combination:
    """Weights of a chain's log-odds without and with image columns, which add up to 1, and of its
    image logit.
    """

    features: Annotated[float, Field(ge=0, le=1)]
    columns: Annotated[float, Field(ge=0, le=1)]
    image: Annotated[float, Field(ge=0, le=100)]

    def __call__(self, features: Floats, columns: Floats, image: Floats) -> Floats:
        """Combined log-odds (n,)."""
        return self.features * features + self.columns * columns + self.image * image

    def to_json(self) -> dict[str, Any]:
        return {"features": self.features, "columns": self.columns, "image": self.image}


def fit_combinations(
    target: NDArray[np.int64], fold: NDArray[np.int64], design: Floats
) -> dict[int, Combination]:
    """A combination for each scored fold, fitted on the rows of the other scored ones.

    target, fold (n,); design (n, 3): out-of-fold log-odds without and with image columns and image
    logits, NaN in folds that were not scored.
    """
    scored = np.isfinite(design).all(axis=1)
    return {
        held_out: fit_combination(target[rows], design[rows])
        for held_out in np.unique(fold[scored]).tolist()
        for rows in [scored & (fold != held_out)]
    }


def combine(
    combinations: Mapping[int, Combination], fold: NDArray[np.int64], design: Floats
) -> Floats:
    """Each row's log-odds (n,) by its own fold's combination, NaN without one."""
    combined = np.full(len(fold), np.nan)
    for held_out, combination in combinations.items():
        rows = fold == held_out
        combined[rows] = combination(*design[rows].T)
    return combined


def fit_combination(target: NDArray[np.int64], design: Floats) -> Combination:
    """The non-negative ridge logistic regression of target (n,) on design (n, 3), shrunk towards
    `PRIOR`; the prior itself without both classes.

    The fitted weights are divided by the sum of the first two, and the intercept is left out: folds
    are compared with each other, and theirs would differ by chance.
    """
    if not 0 < target.sum() < len(target):
        return Combination(*PRIOR)
    prior = np.array([*PRIOR, 0.0])
    ridge = np.array([RIDGE, RIDGE, RIDGE, 0.0])
    design = np.column_stack([design, np.ones(len(design))])

    def loss(weights: Floats) -> tuple[float, Floats]:
        margin = design @ weights
        value = np.logaddexp(0, margin).sum() - margin[target == 1].sum()
        slope = design.T @ (expit(margin) - target)
        away = weights - prior
        return float(value + ridge @ away**2 / 2), slope + ridge * away

    bounds = [(0, 100), (0, 100), (0, 100), (-100, 100)]
    found = minimize(loss, prior, jac=True, method="L-BFGS-B", bounds=bounds).x
    features, columns, image = found[:3] / max(found[0] + found[1], _SMALLEST)
    return Combination(
        min(float(features), 1.0), min(float(columns), 1.0), min(float(image), 100.0)
    )
