"""z-scores against training rows of the same hospital and location."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.tabular.fitted import FittedColumns, FittedFamily
from isic.tabular.hospital_groups import (
    GROUPINGS,
    core_values,
    level_values,
    mean_sd,
    rows_by_level,
)
from isic.tabular.kernels import EPSILON
from isic.tabular.names import MEANING
from isic.tabular.registry import Feature
from isic.tabular.relative import CORE

_Z = tuple(name for name in GROUPINGS if name != "all")


def fit(frame: pd.DataFrame, target: NDArray[np.float64]) -> dict[str, Any]:
    """Mean and sd of the core measurements by grouping: {grouping: {level: [means, sds]}}."""
    values = core_values(frame)
    return {
        name: {
            level: [part.tolist() for part in mean_sd(values[rows])]
            for level, rows in rows_by_level(frame, name).items()
        }
        for name in GROUPINGS
    }


def apply(state: Mapping[str, Any], frame: pd.DataFrame) -> FittedColumns:
    """z-scores against the fitted levels; a missing measurement stays missing."""
    values = core_values(frame)
    columns: FittedColumns = {}
    for name in _Z:
        level = level_values(state, name, frame)
        z = ((values - level[:, 0]) / (level[:, 1] + EPSILON)).astype(np.float32)
        columns |= {
            _name(name, v): np.ascontiguousarray(z[:, index]) for index, v in enumerate(CORE)
        }
    return columns


def _name(grouping: str, v: str) -> str:
    return f"fitted_{grouping}_z__{v}"


FAMILY = FittedFamily(
    name="hospital",
    meaning="z-score against training rows of the same hospital, place and lighting",
    features=tuple(
        Feature(
            _name(name, v),
            f"({v} - mean({v})) / (sd({v}) + 1e-5) over training rows by"
            f" {' × '.join(GROUPINGS[name][0])}",
            f"sd from the training mean of the same {' × '.join(GROUPINGS[name][0])}: {MEANING[v]}",
        )
        for name in _Z
        for v in CORE
    ),
    fit=fit,
    apply=apply,
)
