"""From the metadata frame to the feature frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import is_float_dtype

from isic.core.schema import ID
from isic.tabular.canonical import canonical
from isic.tabular.parallel import parallel_map
from isic.tabular.registry import Family, choose, lesion_families


def build_features(
    frame: pd.DataFrame, families: Sequence[str] | None = None, older_ranks: bool = False
) -> pd.DataFrame:
    """Features of every row of a metadata frame, in its order and with its index.

    `frame` needs the columns of test-metadata.csv; others, such as the train-only ones, are
    ignored. Returns isic_id, then the columns of `families` (None: all) in registry order: float32,
    and categories as text with NaN for missing, combined ones as pandas categories. A row's values
    depend on its own patient's rows alone, to the last bit. `older_ranks`: ranks are rank / n, as
    bundles of formats 1 and 2 have them, instead of (rank - 1/2) / n. Raises InputError for an unknown
    family, a missing column, repeated ids, or text among the numbers.
    """
    chosen = choose(families)
    if older_ranks:
        from isic.tabular.families.patient.within_groups import OLDER_RANKS

        chosen = [OLDER_RANKS.get(family.name, family) for family in chosen]
    lesions, order = canonical(frame)
    wide = _with_measured(lesions) if any(family.relative for family in chosen) else lesions
    finished: dict[str, object] = {ID: frame[ID].array}
    for family in chosen:
        # One family at a time, so that two copies of all columns are never in memory.
        finished |= _in_input_order(_columns(family, wide), order)
    return pd.DataFrame(finished, index=frame.index, copy=False)


def _with_measured(lesions: pd.DataFrame) -> pd.DataFrame:
    """The canonical frame with the columns of the measured families added, without copies."""
    columns = dict(lesions.items())
    for family in lesion_families():
        if family.measured:
            columns |= dict(family.build(lesions).items())
    return pd.DataFrame(columns, copy=False)


def _columns(family: Family, wide: pd.DataFrame) -> dict[str, pd.Series]:
    """The columns of a family, in canonical order; those of a measured one may be in the frame
    already.
    """
    names = [feature.name for feature in family.features]
    table = wide if family.measured and names[0] in wide else family.build(wide)
    return {name: table[name] for name in names}


def _in_input_order(columns: dict[str, pd.Series], order: NDArray[np.int64]) -> dict[str, object]:
    """The columns of a family in the input's order; each given column is released once it is
    reordered.
    """
    names = list(columns)
    return dict(
        zip(names, parallel_map(lambda name: _back(columns.pop(name), order), names), strict=True)
    )


def _back(column: pd.Series, order: NDArray[np.int64]) -> object:
    """A canonical column in the input's order: numbers as float32, anything else as it is."""
    if not is_float_dtype(column.dtype):
        inverse = np.empty_like(order)
        inverse[order] = np.arange(len(order))
        return column.array.take(inverse)
    values = np.empty(len(order), dtype=np.float32)
    values[order] = column.to_numpy()
    return values
