"""From the metadata frame to the feature frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import ID
from isic.tabular.canonical import canonical
from isic.tabular.parallel import each
from isic.tabular.registry import Family, choose, feature_families


def build_features(frame: pd.DataFrame, families: Sequence[str] | None = None) -> pd.DataFrame:
    """Features of every row of a metadata frame, in its order and with its index.

    `frame` needs the columns of test-metadata.csv; others, the train-only ones above all, are not looked at. Returns
    isic_id, then the columns of `families` (None: all) in registry order: float32, and categories as text with NaN for
    missing. A row's values depend on its own patient's rows alone, to the last bit.
    Raises InputError for an unknown family, a missing column, repeated ids, or text among the numbers.
    """
    chosen = choose(families)
    lesions, order = canonical(frame)
    own = {family.name: family.build(lesions) for family in _needed(chosen)}
    wide = _with_measured(lesions, own) if any(family.relative for family in chosen) else lesions
    finished: dict[str, object] = {ID: frame[ID].array}
    for family in chosen:
        table = own.pop(family.name) if family.name in own else family.build(wide)
        # Turned back one family at a time, so that two copies of the whole never stand side by side.
        finished |= _in_input_order(table, order)
    return pd.DataFrame(finished, index=frame.index, copy=False)


def _with_measured(lesions: pd.DataFrame, own: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The canonical frame with the columns of the measured families beside it."""
    measured = [own[name] for name, family in feature_families().items() if family.measured]
    return pd.concat([lesions, *measured], axis=1)


def _needed(chosen: Sequence[Family]) -> list[Family]:
    """Families of one lesion alone that must be computed: the chosen, and all measured ones if any is relative."""
    relative = any(family.relative for family in chosen)
    return [
        family
        for family in feature_families().values()
        if not family.relative and (family in chosen or (relative and family.measured))
    ]


def _in_input_order(table: pd.DataFrame, order: NDArray[np.int64]) -> dict[str, object]:
    """The columns of a family in the input's order."""
    names = [str(name) for name in table.columns]
    return dict(zip(names, each(lambda name: _back(table[name], order), names), strict=True))


def _back(column: pd.Series, order: NDArray[np.int64]) -> object:
    """A canonical column in the input's order: numbers as float32, categories as text."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        inverse = np.empty_like(order)
        inverse[order] = np.arange(len(order))
        return column.take(inverse).astype("str").array
    values = np.empty(len(order), dtype=np.float32)
    values[order] = column.to_numpy()
    return values
