"""Families whose features are formulas of one lesion's own measurements.

A formula is written once, as text: `isic features list` prints this text and `build` evaluates it.
Texts come from this package only, never from parameters or data; they can use the measurements and
the functions below.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import CodeType

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.tabular.names import OFFICIAL
from isic.tabular.parallel import parallel_map
from isic.tabular.registry import Family, Feature

_FUNCTIONS = {
    "abs": np.abs,
    "atan2": np.arctan2,
    "cbrt": np.cbrt,
    "hypot": np.hypot,
    "log": np.log,
    "log1p": np.log1p,
    "pi": np.pi,
    "sqrt": np.sqrt,
}


def formula_family(
    name: str, meaning: str, formulas: Sequence[tuple[str, str, str]], measured: bool = True
) -> Family:
    """A family of (name, formula, meaning with unit)."""
    features = tuple(Feature(*formula) for formula in formulas)
    compiled = [compile(feature.formula, feature.name, "eval") for feature in features]

    def build(frame: pd.DataFrame) -> pd.DataFrame:
        namespace = {short: frame[column].to_numpy() for short, column in OFFICIAL.items()}
        columns = parallel_map(lambda code: _evaluate(code, namespace), compiled)
        return pd.DataFrame(
            {feature.name: column for feature, column in zip(features, columns, strict=True)},
            copy=False,
        )

    return Family(name, meaning, features, build, measured=measured)


def _evaluate(code: CodeType, namespace: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    """Value of a compiled formula, float64 (n,); NaN, not infinite, for a division by zero."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        values: NDArray[np.float64] = np.asarray(
            eval(code, {"__builtins__": {}, **_FUNCTIONS}, dict(namespace)), dtype=np.float64
        )
    infinite = ~np.isfinite(values)
    if infinite.any():
        values = np.where(infinite, np.nan, values)
    return values
