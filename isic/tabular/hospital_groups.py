"""Groups of training rows by hospital and location; rare and unknown groups use a coarser one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.tabular.names import OFFICIAL
from isic.tabular.relative import CORE

#: Grouping → its columns, and the coarser grouping used where a combination was too rare in
#: training.
GROUPINGS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "all": ((), None),
    "hospital": (("attribution",), "all"),
    "location": (("tbp_lv_location",), "all"),
    "hospital_location": (("attribution", "tbp_lv_location"), "location"),
    "hospital_location_tile": (
        ("attribution", "tbp_lv_location", "tbp_tile_type"),
        "hospital_location",
    ),
}
#: Smallest number of training lesions of a level; rarer ones use the coarser grouping.
RARE = 30

_MISSING = "(missing)"


def level_codes(frame: pd.DataFrame, keys: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Distinct combinations of `keys` as text (k,), and the index (n,) of each row's one."""
    require_columns(frame, keys)
    if not keys:
        return ["all"], np.zeros(len(frame), dtype=np.int64)
    combined = np.zeros(len(frame), dtype=np.int64)
    columns = [pd.Categorical(frame[name].astype("str")) for name in keys]
    for column in columns:
        combined = combined * (len(column.categories) + 1) + column.codes.astype(np.int64) + 1
    _, example, member = np.unique(combined, return_index=True, return_inverse=True)
    texts = [
        [_MISSING if pd.isna(level) else str(level) for level in column[example]]
        for column in columns
    ]
    return [" × ".join(parts) for parts in zip(*texts, strict=True)], member.astype(np.int64)


def rows_by_level(frame: pd.DataFrame, name: str) -> dict[str, NDArray[np.int64]]:
    """Level of a grouping → its rows. Rare levels are left out, except the one level of `all`."""
    labels, member = level_codes(frame, GROUPINGS[name][0])
    order = np.argsort(member, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(member, minlength=len(labels)))[:-1])
    return {
        label: rows
        for label, rows in zip(labels, parts, strict=True)
        if name == "all" or len(rows) >= RARE
    }


def level_values(
    tables: Mapping[str, Mapping[str, Any]], name: str, frame: pd.DataFrame
) -> NDArray[np.float64]:
    """`tables[grouping][level]` (an array of any shape) of each row's level, (rows, *shape)
    float64.

    An unknown level takes the value of the next coarser grouping.
    """
    keys, coarser = GROUPINGS[name]
    labels, member = level_codes(frame, keys)
    known = np.array([label in tables[name] for label in labels], dtype=bool)
    empty = np.zeros(np.shape(tables["all"]["all"]))
    values = np.array([tables[name].get(label, empty) for label in labels], dtype=np.float64)
    values = values.reshape(-1, *empty.shape)[member]
    unknown = ~known[member] if len(known) else np.zeros(len(frame), dtype=bool)
    if coarser is not None and unknown.any():
        values[unknown] = level_values(tables, coarser, frame[unknown])
    return values


def require_columns(frame: pd.DataFrame, names: Sequence[str]) -> None:
    """InputError naming the first of `names` that `frame` lacks."""
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise InputError(
            f"fitted features need column `{missing[0]}`: keep family `raw` in features.families"
        )


def core_values(frame: pd.DataFrame) -> NDArray[np.float64]:
    """The core measurements of a metadata or feature frame, (rows, len(CORE))."""
    columns = [OFFICIAL[v] for v in CORE]
    require_columns(frame, columns)
    return np.column_stack([frame[name].to_numpy(dtype=np.float64) for name in columns])


def mean_sd(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and population sd of each column's present values; 0 where it has none."""
    count = np.maximum(np.isfinite(values).sum(axis=0), 1)
    mean = np.nansum(values, axis=0) / count
    return mean, np.sqrt(np.nansum((values - mean) ** 2, axis=0) / count)
