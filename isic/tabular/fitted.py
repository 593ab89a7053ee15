"""What is learnt from training rows and only then applied: levels of hospitals and places, smoothed target rates.

Nothing here looks at the rows it scores. `fit` returns plain values that go into a model's JSON; `apply` gives the same
columns for any row, with an unknown hospital, place or sex treated as the nearest thing known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from isic.core.errors import InputError
from isic.core.schema import PATIENT
from isic.tabular.kernels import EPSILON
from isic.tabular.levels import LEVELS
from isic.tabular.names import MEANING
from isic.tabular.registry import Feature
from isic.tabular.relative import column

#: Grouping → its columns, and the grouping asked where a combination was too rare in training.
GROUPINGS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "all": ((), None),
    "hospital": (("attribution",), "all"),
    "location": (("tbp_lv_location",), "all"),
    "hospital_location": (("attribution", "tbp_lv_location"), "location"),
    "hospital_location_tile": (("attribution", "tbp_lv_location", "tbp_tile_type"), "hospital_location"),
}
#: Fewer training lesions say nothing about a hospital's level.
RARE = 30

#: Columns whose rate of malignant lesions is learnt, and the weight of the overall rate in lesions (FIELD: m = 50).
ENCODED = ("anatom_site_general", "sex", "tbp_lv_location", "tbp_lv_location_simple")
PRIOR_WEIGHT = 50.0

_MISSING = "(missing)"


def fit_hospital(frame: pd.DataFrame) -> dict[str, Any]:
    """Mean and sd of LEVELS in every grouping of the training rows, as JSON-able values.

    `frame` needs the official columns named in LEVELS and GROUPINGS: a metadata frame or features with family `raw`.
    """
    _require(frame, [column(v) for v in LEVELS])
    state: dict[str, Any] = {"columns": list(LEVELS), "groupings": {}}
    values = np.column_stack([frame[column(v)].to_numpy(dtype=np.float64) for v in LEVELS])
    for name, (keys, _) in GROUPINGS.items():
        labels, member = _levels(frame, keys)
        state["groupings"][name] = {
            label: _mean_sd(values[member == number])
            for number, label in enumerate(labels)
            if name == "all" or (member == number).sum() >= RARE
        }
    return state


def apply_hospital(state: Mapping[str, Any], frame: pd.DataFrame) -> pd.DataFrame:
    """z-scores of `frame` against the fitted levels, float32, columns `fitted_GROUPING_z__MEASUREMENT`."""
    names: list[str] = list(state["columns"])
    _require(frame, [column(v) for v in names])
    columns: dict[str, NDArray[np.float32]] = {}
    for name in GROUPINGS:
        if name == "all":
            continue
        mean, sd = _known(state["groupings"], name, frame)
        for number, v in enumerate(names):
            values = frame[column(v)].to_numpy(dtype=np.float64)
            columns[f"fitted_{name}_z__{v}"] = ((values - mean[:, number]) / (sd[:, number] + EPSILON)).astype(
                np.float32
            )
    return pd.DataFrame(columns, index=frame.index, copy=False)


def fit_encoding(frame: pd.DataFrame, target: ArrayLike) -> dict[str, Any]:
    """Smoothed share of malignant lesions per level of ENCODED, from training rows, as JSON-able values."""
    labels = np.asarray(target, dtype=np.float64)
    prior = float(labels.mean())
    rates: dict[str, dict[str, float]] = {}
    for name in ENCODED:
        levels, member = _levels(frame, (name,))
        rates[name] = dict(zip(levels, _smooth(*_tally(member, labels, len(levels)), prior).tolist(), strict=True))
    return {"prior": prior, "rates": rates}


def apply_encoding(state: Mapping[str, Any], frame: pd.DataFrame) -> pd.DataFrame:
    """Fitted rates of the rows' levels, float32, columns `fitted_rate__COLUMN`; the overall rate where unknown."""
    columns = {}
    for name, rates in state["rates"].items():
        levels, member = _levels(frame, (name,))
        known = np.array([rates.get(level, state["prior"]) for level in levels], dtype=np.float32)
        columns[f"fitted_rate__{name}"] = known[member]
    return pd.DataFrame(columns, index=frame.index, copy=False)


def encode_training(frame: pd.DataFrame, target: ArrayLike) -> pd.DataFrame:
    """`apply_encoding` for the training rows themselves, each from all patients but its own.

    With its own target inside its rate, a rare level would give a training row away. Needs patient_id.
    """
    _require(frame, [PATIENT])
    labels = np.asarray(target, dtype=np.float64)
    prior = float(labels.mean())
    columns = {}
    for name in ENCODED:
        _, member = _levels(frame, (name,))
        _, own = _levels(frame, (PATIENT, name))
        malignant, count = (_tally(member, labels, member.max() + 1)[part][member] for part in (0, 1))
        own_malignant, own_count = (_tally(own, labels, own.max() + 1)[part][own] for part in (0, 1))
        rate = _smooth(malignant - own_malignant, count - own_count, prior)
        columns[f"fitted_rate__{name}"] = rate.astype(np.float32)
    return pd.DataFrame(columns, index=frame.index, copy=False)


def fitted_features() -> dict[str, tuple[Feature, ...]]:
    """What the fitted columns mean, by kind: `hospital`, `encoding`."""
    hospital = tuple(
        Feature(
            f"fitted_{name}_z__{v}",
            f"({v} - mean({v})) / (sd({v}) + 1e-5) over training rows by {' × '.join(keys)}",
            f"sd from the training mean of the same {' × '.join(keys)}: {MEANING[v]}",
        )
        for name, (keys, _) in GROUPINGS.items()
        if keys
        for v in LEVELS
    )
    encoding = tuple(
        Feature(
            f"fitted_rate__{name}",
            f"(malignant + {PRIOR_WEIGHT:.0f} · rate) / (n + {PRIOR_WEIGHT:.0f}) over training rows by {name}",
            f"smoothed share of malignant training lesions with the same {name}, 0 to 1",
        )
        for name in ENCODED
    )
    return {"hospital": hospital, "encoding": encoding}


def _levels(frame: pd.DataFrame, keys: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Distinct combinations of `keys` as text, and the number of each row's combination."""
    _require(frame, keys)
    if not keys:
        return ["all"], np.zeros(len(frame), dtype=np.int64)
    combined = np.zeros(len(frame), dtype=np.int64)
    columns = [pd.Categorical(frame[name].astype("str")) for name in keys]
    for one in columns:
        combined = combined * (len(one.categories) + 1) + one.codes.astype(np.int64) + 1
    _, example, member = np.unique(combined, return_index=True, return_inverse=True)
    texts = [[_MISSING if pd.isna(level) else str(level) for level in one[example]] for one in columns]
    return [" × ".join(parts) for parts in zip(*texts, strict=True)], member.astype(np.int64)


def _mean_sd(values: NDArray[np.float64]) -> list[list[float]]:
    """[means, population sds] of the columns of present values; 0 where a column has none."""
    count = np.maximum(np.isfinite(values).sum(axis=0), 1)
    mean = np.nansum(values, axis=0) / count
    sd = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / count)
    return [mean.tolist(), sd.tolist()]


def _known(groupings: Mapping[str, Any], name: str, frame: pd.DataFrame) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mean and sd (rows, columns) of each row's level in a grouping, from the next coarser one where it is unknown."""
    keys, coarser = GROUPINGS[name]
    levels, member = _levels(frame, keys)
    known = np.array([level in groupings[name] for level in levels], dtype=bool)
    width = len(groupings["all"]["all"][0])
    tables = np.array([groupings[name].get(level, np.zeros((2, width))) for level in levels]).reshape(-1, 2, width)
    mean, sd = tables[member, 0], tables[member, 1]
    unknown = ~known[member]
    if coarser is not None and unknown.any():
        mean[unknown], sd[unknown] = _known(groupings, coarser, frame[unknown])
    return mean, sd


def _tally(member: NDArray[np.int64], labels: NDArray[np.float64], size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Malignant lesions and lesions of each level."""
    return np.bincount(member, weights=labels, minlength=size), np.bincount(member, minlength=size).astype(np.float64)


def _smooth(malignant: NDArray[Any], count: NDArray[Any], prior: float) -> NDArray[np.float64]:
    rate: NDArray[np.float64] = (malignant + PRIOR_WEIGHT * prior) / (count + PRIOR_WEIGHT)
    return rate


def _require(frame: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise InputError(f"fitted features need column `{missing[0]}`: keep family `raw` in features.families")
