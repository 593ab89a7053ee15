"""Statistics of training rows of the same hospital and location.

Sums are left out: they depend on the number of training folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.tabular.fitted import FittedColumns, FittedFamily
from isic.tabular.hospital_groups import GROUPINGS, level_values, require_columns, rows_by_level
from isic.tabular.kernels import SUMMARY, summarise
from isic.tabular.names import MEANING, OFFICIAL
from isic.tabular.registry import Feature
from isic.tabular.relative import SUMMARISED

#: Groupings of the published solution.
_OVER = ("hospital", "hospital_location")
_STATISTICS = ("mean", "sd", "min", "max", "median", "skew")


def fit(frame: pd.DataFrame, target: NDArray[np.float64]) -> dict[str, Any]:
    """{grouping: {level: (1 + measurements × statistics) values}}; the first is the level's share
    of training rows.
    """
    columns = [OFFICIAL[v] for v in SUMMARISED]
    require_columns(frame, columns)
    values = [np.ascontiguousarray(frame[name].to_numpy(dtype=np.float64)) for name in columns]
    return {
        name: {
            level: [len(rows) / len(frame), *_statistics(values, rows)]
            for level, rows in rows_by_level(frame, name).items()
        }
        for name in GROUPINGS
        if name != "hospital_location_tile"
    }


def apply(state: Mapping[str, Any], frame: pd.DataFrame) -> FittedColumns:
    """The fitted statistics of each row's level."""
    columns: FittedColumns = {}
    for name in _OVER:
        table = level_values(state, name, frame).astype(np.float32)
        columns |= {
            column: np.ascontiguousarray(table[:, index])
            for index, column in enumerate(_names(name))
        }
    return columns


def _statistics(values: list[NDArray[np.float64]], rows: NDArray[np.int64]) -> list[float]:
    statistics: list[float] = []
    starts = np.array([0, len(rows)])
    for column in values:
        table = np.empty((1, len(SUMMARY)))
        summarise(column, rows, starts, table)
        # 0 for a measurement that no training row has: JSON has no NaN.
        statistics += [float(np.nan_to_num(table[0, SUMMARY.index(name)])) for name in _STATISTICS]
    return statistics


def _names(grouping: str) -> list[str]:
    return [
        f"fitted_{grouping}_share",
        *(
            f"fitted_{grouping}_level__{v}_{statistic}"
            for v in SUMMARISED
            for statistic in _STATISTICS
        ),
    ]


def _features(grouping: str) -> list[Feature]:
    over = f"training rows by {' × '.join(GROUPINGS[grouping][0])}"
    texts = [
        (f"n / n of all {over}", f"share of {over}, 0 to 1"),
        *(
            (f"{each}({v}) over {over}", f"{each} over {over}: {MEANING[v]}")
            for v in SUMMARISED
            for each in _STATISTICS
        ),
    ]
    return [Feature(name, *text) for name, text in zip(_names(grouping), texts, strict=True)]


FAMILY = FittedFamily(
    name="hospital_level",
    meaning="Statistics of training rows of the same hospital and place",
    features=tuple(feature for name in _OVER for feature in _features(name)),
    fit=fit,
    apply=apply,
)
