"""The one order in which features are computed.

Rows are sorted by patient and isic_id before anything is summed, so features are equal to the last
bit for any order of the input and any other patients in it. Each patient is one contiguous slice.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.schema import CATEGORICAL, ID, NUMERIC, PATIENT

#: Text columns that features may use. The licence is used in combinations only.
_TEXTS = (*CATEGORICAL, "copyright_license")


def canonical(frame: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Sorted copy of the columns that features may use, and the input position of each of its rows.

    The copy holds isic_id, patient_id and _TEXTS as `category` (missing: code -1) and NUMERIC as
    float64 with infinities as NaN; other columns of `frame`, in particular the train-only ones, are
    dropped. Raises InputError for missing columns, missing or repeated ids, missing patients, text
    among the numbers.
    """
    _check(frame)
    patient = pd.Categorical(frame[PATIENT])
    order = _order(frame[ID], patient.codes)
    columns: dict[str, object] = {ID: frame[ID].take(order).array, PATIENT: patient.take(order)}
    columns |= {name: pd.Categorical(frame[name]).take(order) for name in _TEXTS}
    columns |= {name: _finite(frame[name], order) for name in NUMERIC}
    return pd.DataFrame(columns, copy=False), order


def _check(frame: pd.DataFrame) -> None:
    missing = [name for name in (ID, PATIENT, *_TEXTS, *NUMERIC) if name not in frame.columns]
    if missing:
        raise InputError(
            f"features need column `{missing[0]}` ({len(missing)} missing in all): use the official"
            " metadata"
        )
    for name in (ID, PATIENT):
        if frame[name].isna().any():
            raise InputError(
                f"features need `{name}` in every row: {int(frame[name].isna().sum())} rows lack it"
            )
    if frame[ID].duplicated().any():
        raise InputError(
            f"isic_id {frame[ID][frame[ID].duplicated()].iloc[0]} occurs more than once: keep one"
            " of its rows"
        )


def _order(ids: pd.Series, patient: NDArray[np.signedinteger]) -> NDArray[np.int64]:
    # The official files are sorted by isic_id, and sorting 400,000 texts takes longer than all
    # z-scores.
    if ids.is_monotonic_increasing:
        return np.argsort(patient, kind="stable").astype(np.int64)
    by_id = ids.reset_index(drop=True).sort_values(kind="stable").index.to_numpy()
    return by_id[np.argsort(patient[by_id], kind="stable")].astype(np.int64)


def _finite(column: pd.Series, order: NDArray[np.int64]) -> NDArray[np.float64]:
    try:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)[order]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"column `{column.name}` holds text, features need numbers: use the official metadata"
        ) from error
    values[~np.isfinite(values)] = np.nan
    return values


def codes(frame: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.int64]:
    """One integer per row for its combination of the `columns` (category dtype); missing is a level
    of its own.
    """
    combined = np.zeros(len(frame), dtype=np.int64)
    for name in columns:
        column = frame[name].cat
        combined = (
            combined * (len(column.categories) + 1) + column.codes.to_numpy(dtype=np.int64) + 1
        )
    return combined
