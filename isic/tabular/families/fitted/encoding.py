"""Share of malignant training lesions with the same site, sex or location, drawn towards the
overall share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.tabular.fitted import FittedColumns, FittedFamily
from isic.tabular.hospital_groups import level_codes, require_columns
from isic.tabular.registry import Feature

#: FittedColumns whose rate is learnt, and the weight of the overall rate in lesions
#: (junaidaliop/isic2024-tbp: m = 50).
ENCODED = ("anatom_site_general", "sex", "tbp_lv_location", "tbp_lv_location_simple")
_PRIOR_WEIGHT = 50.0
#: Groups of patients whose training rows get the rates of the others. A level has as many rates in
#: training: more of them tell groups apart better than levels, and noise gains by it (ten cost
#: pure-noise columns .01 AUC, three none).
PARTS = 3


def fit(frame: pd.DataFrame, target: NDArray[np.float64]) -> dict[str, Any]:
    """{"prior": overall rate, "rates": {column: {level: smoothed rate}}}."""
    require_columns(frame, ENCODED)
    prior = float(target.mean())
    rates: dict[str, dict[str, float]] = {}
    for name in ENCODED:
        labels, member = level_codes(frame, (name,))
        malignant, count = _tally(member, target, len(labels))
        rates[name] = dict(zip(labels, _smooth(malignant, count, prior).tolist(), strict=True))
    return {"prior": prior, "rates": rates}


def apply(state: Mapping[str, Any], frame: pd.DataFrame) -> FittedColumns:
    """Fitted rates of the rows' levels; the overall rate where unknown."""
    made: FittedColumns = {}
    for name, rates in state["rates"].items():
        labels, member = level_codes(frame, (name,))
        made[_name(name)] = np.array(
            [rates.get(label, state["prior"]) for label in labels], dtype=np.float32
        )[member]
    return made


def training(
    frame: pd.DataFrame, target: NDArray[np.float64], patients: NDArray[np.int64]
) -> FittedColumns:
    """Rates of the training rows themselves, those of each part of the patients from the other
    parts.

    A rate that includes the row's own target leaks the label of a rare level. Leaving out its
    patient alone leaks it too: of all rows of a level, the lowest rates would be those of malignant
    ones.
    """
    part = np.random.default_rng(0).permutation(int(patients.max()) + 1)[patients] % PARTS
    made: FittedColumns = {}
    for name in ENCODED:
        labels, member = level_codes(frame, (name,))
        rates = np.array(
            [_rates_of(part != number, member, target, len(labels)) for number in range(PARTS)]
        )
        made[_name(name)] = rates[part, member].astype(np.float32)
    return made


def _rates_of(
    seen: NDArray[np.bool_], member: NDArray[np.int64], target: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Smoothed rate of each of `size` levels in the rows `seen`, brought to the overall rate of all
    rows.

    The fewer malignant lesions these rows have, the more the left-out part has: unscaled, its rates
    would all be low.
    """
    prior, overall = float(target[seen].sum()) / max(int(seen.sum()), 1), float(target.mean())
    if prior == 0:
        return np.full(size, overall)
    return _smooth(*_tally(member[seen], target[seen], size), prior) * (overall / prior)


def _tally(
    member: NDArray[np.int64], target: NDArray[np.float64], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Malignant lesions and lesions of each of `size` levels."""
    malignant, count = np.bincount(member, target, size), np.bincount(member, minlength=size)
    return malignant.astype(np.float64), count.astype(np.float64)


def _smooth(
    malignant: NDArray[np.float64], count: NDArray[np.float64], prior: float
) -> NDArray[np.float64]:
    return (malignant + _PRIOR_WEIGHT * prior) / (count + _PRIOR_WEIGHT)


def _name(column: str) -> str:
    return f"fitted_rate__{column}"


FAMILY = FittedFamily(
    name="encoding",
    meaning="Smoothed share of malignant training lesions by site, sex and location",
    features=tuple(
        Feature(
            _name(name),
            f"(malignant + {_PRIOR_WEIGHT:.0f} · rate) / (n + {_PRIOR_WEIGHT:.0f}) over training rows"
            f" by {name}",
            f"smoothed share of malignant training lesions with the same {name}, 0 to 1",
        )
        for name in ENCODED
    ),
    fit=fit,
    apply=apply,
    training=training,
)
