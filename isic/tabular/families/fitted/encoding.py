"""Share of malignant training lesions with the same site, sex or location, shrunk towards the
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

#: Columns whose rate is fitted, and the weight of the overall rate in lesions
#: (junaidaliop/isic2024-tbp: m = 50).
ENCODED = ("anatom_site_general", "sex", "tbp_lv_location", "tbp_lv_location_simple")
_PRIOR_WEIGHT = 50.0
#: Parts of the patients; training rows of a part get the rates of the others. A level has as many
#: rates in training. With many parts a rate identifies the part rather than the level: with ten,
#: columns of pure noise cost .01 AUC, with three none.
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
    columns: FittedColumns = {}
    for name, rates in state["rates"].items():
        labels, member = level_codes(frame, (name,))
        columns[_name(name)] = np.array(
            [rates.get(label, state["prior"]) for label in labels], dtype=np.float32
        )[member]
    return columns


def training(
    frame: pd.DataFrame, target: NDArray[np.float64], patients: NDArray[np.int64]
) -> FittedColumns:
    """Rates of the training rows: those of each part of the patients come from the other parts.

    A rate that includes the row's own target leaks the label of a rare level. Leaving out only its
    patient leaks it too: of all rows of a level, malignant ones would get the lowest rates.
    """
    part = np.random.default_rng(0).permutation(int(patients.max()) + 1)[patients] % PARTS
    columns: FittedColumns = {}
    for name in ENCODED:
        labels, member = level_codes(frame, (name,))
        rates = np.array(
            [_rates_of(part != index, member, target, len(labels)) for index in range(PARTS)]
        )
        columns[_name(name)] = rates[part, member].astype(np.float32)
    return columns


def _rates_of(
    used: NDArray[np.bool_], member: NDArray[np.int64], target: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Smoothed rate of each of `size` levels in the rows `used`, scaled to the overall rate of all
    rows.

    The fewer malignant lesions these rows have, the more the left-out part has; unscaled rates
    would be too low for it.
    """
    prior, overall = float(target[used].sum()) / max(int(used.sum()), 1), float(target.mean())
    if prior == 0:
        return np.full(size, overall)
    return _smooth(*_tally(member[used], target[used], size), prior) * (overall / prior)


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
            f"(malignant + {_PRIOR_WEIGHT:.0f} · rate) / (n + {_PRIOR_WEIGHT:.0f}) over training"
            f" rows by {name}",
            f"smoothed share of malignant training lesions with the same {name}, 0 to 1",
        )
        for name in ENCODED
    ),
    fit=fit,
    apply=apply,
    training=training,
)
