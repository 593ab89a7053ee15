"""Encoder of a feature frame as named float32 columns, the same for every gradient-boosting
library.

Categories become one 0/1 column per training level, so an unknown hospital or site is 0 in all of
them, and no library's own encoding of categories is needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from isic.core.errors import InputError
from isic.core.schema import ID, PATIENT, TRAIN_ONLY

#: Columns by name, each (n,) float32. Not one matrix: columns are views of the frame where
#: possible.
Columns = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Encoder:
    """The columns of a stacker: numbers in frame order, then one 0/1 column per level of each
    category.
    """

    numeric: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]

    @classmethod
    def fit(cls, features: pd.DataFrame) -> Encoder:
        """Fix columns and category levels on the training rows.

        Raises InputError on a column that the test files do not have.
        """
        used = [column for column in features.columns if column != ID]
        leaking = sorted(set(used) & {*TRAIN_ONLY, PATIENT, "fold"})
        if leaking:
            raise InputError(
                f"features hold {', '.join(leaking)}, which would leak or identify: leave it out of"
                " them"
            )
        numeric = tuple(column for column in used if _is_number(features[column]))
        texts = [column for column in used if column not in numeric]
        levels = {
            column: tuple(sorted(str(level) for level in features[column].dropna().unique()))
            for column in texts
        }
        return cls(numeric, levels)

    def drop_families(self, features: set[str]) -> Encoder:
        """The encoder without these features."""
        return Encoder(
            tuple(column for column in self.numeric if column not in features),
            {column: levels for column, levels in self.levels.items() if column not in features},
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order. ASCII letters, digits and _ only: LightGBM refuses punctuation in
        names.
        """
        return (
            *map(plain, self.numeric),
            *(name for names in self._level_names().values() for name in names),
        )

    def sources(self) -> dict[str, str]:
        """Column name -> feature."""
        sources = {plain(column): column for column in self.numeric}
        return sources | {
            name: column for column, names in self._level_names().items() for name in names
        }

    def level(self, name: str) -> str | None:
        """The category level of column `name`, None for a number."""
        for column, names in self._level_names().items():
            if name in names:
                return self.levels[column][names.index(name)]
        return None

    def columns(self, features: pd.DataFrame) -> Columns:
        """The columns of `features` (n rows). Raises InputError naming a missing or non-numeric
        feature.
        """
        missing = [
            column for column in (*self.numeric, *self.levels) if column not in features.columns
        ]
        if missing:
            raise InputError(
                f"features lack {', '.join(missing[:5])}: build them with the training run's"
                " families"
            )
        columns: Columns = {}
        for column in self.numeric:
            if not _is_number(features[column]):
                raise InputError(
                    f"feature {column} is not numeric, as it was in training: check the input's"
                    " types"
                )
            columns[plain(column)] = features[column].to_numpy(dtype=np.float32)
        for column, names in self._level_names().items():
            for level, name in zip(self.levels[column], names, strict=True):
                columns[name] = features[column].eq(level).fillna(False).to_numpy(dtype=np.float32)
        return columns

    def unknown(self, features: pd.DataFrame) -> Counter[tuple[str, str]]:
        """Number of rows by category and value that no training row had: they count as missing."""
        found: Counter[tuple[str, str]] = Counter()
        for column, levels in self.levels.items():
            if column not in features:
                continue
            values = features[column].dropna()
            others = values[~values.isin(levels)].astype(str)
            found.update((column, value) for value in others)
        return found

    def _level_names(self) -> dict[str, list[str]]:
        # The index distinguishes levels that differ only in punctuation.
        return {
            column: [
                f"{plain(column)}_{index}_{plain(level)[:40]}" for index, level in enumerate(levels)
            ]
            for column, levels in self.levels.items()
        }


def plain(text: str) -> str:
    """`text` with runs of other characters than ASCII letters and digits replaced by one
    underscore.
    """
    return re.sub(r"[^0-9A-Za-z]+", "_", text).strip("_")


def rows(
    columns: Columns, index: NDArray[np.int64] | slice, names: Sequence[str] | None = None
) -> NDArray[np.float32]:
    """The chosen rows as one C-ordered float32 matrix (rows, columns)."""
    chosen = [columns[name] for name in names or columns]
    first = chosen[0][index]
    matrix = np.empty((len(first), len(chosen)), dtype=np.float32)
    for position, column in enumerate(chosen):
        matrix[:, position] = column[index]
    return matrix


def _is_number(column: pd.Series) -> bool:
    return is_numeric_dtype(column) or is_bool_dtype(column)
