"""Share of malignant training lesions with the same site, sex or location, drawn towards the overall share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.tabular.fitted import Columns, Kind
from isic.tabular.groupings import levels, require
from isic.tabular.registry import Feature

#: Columns whose rate is learnt, and the weight of the overall rate in lesions (junaidaliop/isic2024-tbp: m = 50).
ENCODED = ("anatom_site_general", "sex", "tbp_lv_location", "tbp_lv_location_simple")
PRIOR_WEIGHT = 50.0


def fit(frame: pd.DataFrame, target: NDArray[np.float64]) -> dict[str, Any]:
    """{"prior": overall rate, "rates": {column: {level: smoothed rate}}}."""
    require(frame, ENCODED)
    prior = float(target.mean())
    rates: dict[str, dict[str, float]] = {}
    for name in ENCODED:
        labels, member = levels(frame, (name,))
        malignant, count = _tally(member, target)
        rates[name] = dict(zip(labels, _smooth(malignant, count, prior).tolist(), strict=True))
    return {"prior": prior, "rates": rates}


def apply(state: Mapping[str, Any], frame: pd.DataFrame) -> Columns:
    """Fitted rates of the rows' levels; the overall rate where unknown."""
    made: Columns = {}
    for name, rates in state["rates"].items():
        labels, member = levels(frame, (name,))
        made[_name(name)] = np.array([rates.get(label, state["prior"]) for label in labels], dtype=np.float32)[member]
    return made


def training(frame: pd.DataFrame, target: NDArray[np.float64], patients: NDArray[np.int64]) -> Columns:
    """Rates of the training rows themselves, each from all patients but its own, the overall rate included.

    With its own target inside its rate, a rare level would give a training row away.
    """
    made: Columns = {}
    for name in ENCODED:
        _, member = levels(frame, (name,))
        own = np.unique(np.column_stack([patients, member]), axis=0, return_inverse=True)[1].ravel()
        malignant, count = (part[member] for part in _tally(member, target))
        own_malignant, own_count = (part[own] for part in _tally(own, target))
        all_malignant, all_count = (part[patients] for part in _tally(patients, target))
        prior = (target.sum() - all_malignant) / np.maximum(len(target) - all_count, 1)
        made[_name(name)] = _smooth(malignant - own_malignant, count - own_count, prior).astype(np.float32)
    return made


def _tally(member: NDArray[np.int64], target: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Malignant lesions and lesions of each level."""
    return np.bincount(member, weights=target), np.bincount(member).astype(np.float64)


def _smooth(malignant: NDArray[Any], count: NDArray[Any], prior: Any) -> NDArray[np.float64]:
    rate: NDArray[np.float64] = (malignant + PRIOR_WEIGHT * prior) / (count + PRIOR_WEIGHT)
    return rate


def _name(column: str) -> str:
    return f"fitted_rate__{column}"


KIND = Kind(
    name="encoding",
    meaning="Smoothed share of malignant training lesions by site, sex and location",
    features=tuple(
        Feature(
            _name(name),
            f"(malignant + {PRIOR_WEIGHT:.0f} · rate) / (n + {PRIOR_WEIGHT:.0f}) over training rows by {name}",
            f"smoothed share of malignant training lesions with the same {name}, 0 to 1",
        )
        for name in ENCODED
    ),
    fit=fit,
    apply=apply,
    training=training,
)
