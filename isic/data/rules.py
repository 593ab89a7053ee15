"""The rules of one metadata row, the same for `validate` and for every way to score lesions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError, printable
from isic.core.schema import (
    ID,
    IDENTITIES,
    IDENTITY_TOLERANCE,
    MAY_BE_MISSING,
    NUMERIC,
    PATIENT,
    TEST_COLUMNS,
)

#: Physical limits, not observed ones: a hospital outside the training set may lie beyond every
#: observed range.
_RANGES: dict[str, tuple[float, float]] = {
    "age_approx": (0, 120),
    "clin_size_long_diam_mm": (0.01, 300),
    "tbp_lv_L": (-1, 101),
    "tbp_lv_Lext": (-1, 101),
    "tbp_lv_areaMM2": (0.001, 1e5),
    "tbp_lv_perimeterMM": (0.01, 1e4),
    "tbp_lv_minorAxisMM": (0.01, 300),
    "tbp_lv_eccentricity": (0, 1),
    "tbp_lv_nevi_confidence": (0, 100),
    "tbp_lv_norm_border": (0, 10),
    "tbp_lv_norm_color": (0, 10),
    "tbp_lv_color_std_mean": (0, 200),
    "tbp_lv_radial_color_std_max": (0, 200),
    "tbp_lv_symm_2axis_angle": (0, 180),
}


class RowFault(NamedTuple):
    """A broken rule: column, what is wrong, what is needed, and the rows (k,) by position."""

    column: str
    problem: str
    need: str
    rows: NDArray[np.int64]


def row_faults(frame: pd.DataFrame) -> Iterator[RowFault]:
    """Broken rules of rows with the columns of test-metadata.csv: missing values, blanks around
    ids, infinities, ranges, identities.
    """
    for name in TEST_COLUMNS:
        column = frame[name]
        missing = column.isna().to_numpy()
        if name not in MAY_BE_MISSING and missing.any():
            need = "a finite number is needed" if name in NUMERIC else "a value is needed"
            yield RowFault(name, "is missing", need, np.flatnonzero(missing))
        if name in (ID, PATIENT):
            # Another id to a computer, the same one to its reader: a patient would be two.
            text = column.astype("str")
            padded = (text != text.str.strip()).to_numpy() & ~missing
            if padded.any():
                need = "no blanks around it are allowed"
                yield RowFault(name, "has blanks around it", need, np.flatnonzero(padded))
        if name not in NUMERIC:
            continue
        if column.dtype == bool:
            yield RowFault(name, "is a boolean", "a number is needed", np.arange(len(frame)))
            continue
        values = column.to_numpy(dtype=np.float64)
        infinite = np.isinf(values)
        if infinite.any():
            need = "a finite number is needed"
            yield RowFault(name, "is infinite", need, np.flatnonzero(infinite))
        if name in _RANGES:
            low, high = _RANGES[name]
            outside = ~missing & ~infinite & ((values < low) | (values > high))
            if outside.any():
                problem = f"is outside {low:g} to {high:g}"
                need = f"a value from {low:g} to {high:g} is needed"
                yield RowFault(name, problem, need, np.flatnonzero(outside))
    for name, formula in IDENTITIES.items():
        with np.errstate(all="ignore"):
            residual = (frame[name] - formula(frame)).abs()
        wrong = np.flatnonzero(residual > IDENTITY_TOLERANCE)
        if len(wrong):
            problem = f"differs from its formula by up to {residual.max():.3g}"
            need = f"it differs from the other columns by {residual.iloc[wrong[0]]:.3g}"
            yield RowFault(name, problem, need, wrong)


def refuse_rows(rows: pd.DataFrame, where: str) -> None:
    """Raise InputError for the first broken rule, naming the lesion and its value.

    Where training rows lack no value, a model treats a missing one as zero and its score is wrong.
    """
    for fault in row_faults(rows):
        first = rows.iloc[fault.rows[0]]
        if fault.column == PATIENT and pd.isna(first[PATIENT]):
            raise InputError(
                f"{where}: lesion {first[ID]}: patient_id is missing: give every lesion its patient"
            )
        value, isic_id = first[fault.column], printable(str(first[ID]).strip())
        shown = f"'{printable(value)}'" if isinstance(value, str) else value
        raise InputError(
            f"{where}: `{fault.column}` of {isic_id} is {shown}, {fault.need}"
            f" ({len(fault.rows)} of {len(rows)} rows are wrong)"
        )
