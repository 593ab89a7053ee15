"""Blend of libraries: the average rank of a row's log-odds among the fold's held-out rows.

The ranks' reference is stored with the chain, so that a lesion's score does not depend on which
others are scored with it. With `weights`, chain F uses weights found on the other folds'
out-of-fold scores, never on fold F's own. Their optimism is the pAUC gained by a search on all
folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, FiniteFloat

from isic.core.metric import Floats, pauc

#: Quantiles kept of each library's held-out log-odds, and the steps of the weight search.
_KNOTS = 2049
_STEPS = 10
#: Part -> number of a patient's lesions at which its members weigh as much as those before it.
#: Chosen on generated populations that benchmarks/any_patient.py does not judge.
_EVEN_SIZES = {"thinned": 20.0, "lesion": 4.0}


def ascending(values: tuple[float, ...]) -> tuple[float, ...]:
    """`values`, none of them below the one before it; ValueError otherwise."""
    if any(later < earlier for earlier, later in pairwise(values)):
        raise ValueError("the values must ascend")
    return values


Reference = Annotated[
    tuple[FiniteFloat, ...], Field(min_length=_KNOTS, max_length=_KNOTS), AfterValidator(ascending)
]


@dataclass(frozen=True)
class Blend:
    """Weights of the libraries and, where there are several, the reference that ranks each one's
    log-odds.
    """

    weights: Annotated[dict[str, Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)]
    references: dict[str, Reference]

    def __call__(self, log_odds: Mapping[str, Floats]) -> Floats:
        """Blended log-odds (n,) of {library: mean log-odds of its models (n,)}."""
        if len(self.weights) == 1:
            return next(iter(log_odds.values()))
        share = sum(
            weight * rank(log_odds[name], self.references[name])
            for name, weight in self.weights.items()
        )
        # Back to a scale of log-odds: that of the first library at the same rank.
        reference = np.asarray(next(iter(self.references.values())))
        return np.interp(share, np.linspace(0, 1, _KNOTS), reference) + 1e-6 * np.asarray(share)

    def to_json(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "references": {name: list(knots) for name, knots in self.references.items()},
        }


def by_patient_size(log_odds: Mapping[Any, Floats], sizes: NDArray[np.int64]) -> Floats:
    """Log-odds (…, n) of members by part, weighted by the number s of lesions (n,) of each row's
    patient.

    "lesion" has 4 / (s + 4); of the rest "thinned" has 20 / (s + 20) and "whole" s / (s + 20).
    """
    total = log_odds["whole"]
    for part, even in _EVEN_SIZES.items():
        if part in log_odds:
            share = even / (sizes + even)
            total = share * log_odds[part] + (1 - share) * total
    return total


def make_reference(log_odds: Floats) -> tuple[float, ...]:
    """Quantiles of held-out log-odds (n,)."""
    return tuple(np.maximum.accumulate(np.quantile(log_odds, np.linspace(0, 1, _KNOTS))).tolist())


def rank(log_odds: Floats, reference: tuple[float, ...]) -> Floats:
    """Rank among the reference, 0 to 1; 1e-6 of the squashed value orders rows beyond its ends and
    inside ties.
    """
    share = np.interp(log_odds, reference, np.linspace(0, 1, _KNOTS))
    return share + 1e-6 * np.tanh(log_odds / 20)


def find_weights(target: NDArray[np.int64], ranks: Mapping[str, Floats]) -> dict[str, float]:
    """Weights (steps of 0.1, sum 1) of the highest pAUC; the most even ones among equals."""
    names = list(ranks)
    stacked = np.stack([ranks[name] for name in names])
    grid = [
        point for point in product(range(_STEPS + 1), repeat=len(names)) if sum(point) == _STEPS
    ]
    grid.sort(key=lambda point: sum((share - _STEPS / len(names)) ** 2 for share in point))
    scores = [pauc(target, np.asarray(point) / _STEPS @ stacked) for point in grid]
    return {
        name: share / _STEPS
        for name, share in zip(names, grid[int(np.argmax(scores))], strict=True)
    }
