"""An image model's score against the same patient's other lesions: consistently worth more than the score alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from isic.core.errors import InputError
from isic.core.schema import ID, PATIENT
from isic.tabular.groups import Groups
from isic.tabular.kernels import from_median, position, rank, zscore
from isic.tabular.relative import Kernel

_KERNELS: dict[str, Kernel] = {"z": zscore, "rank": rank, "position": position, "from_median": from_median}


def relative_scores(frame: pd.DataFrame, score: ArrayLike, name: str) -> pd.DataFrame:
    """z, percentile rank, position between the extremes and distance from the median of `score` within the patient.

    `frame` needs isic_id and patient_id, `score` is (n,) and aligned with it. Returns float32 columns `NAME_z`, …, in
    the frame's order; a lesion alone has 0, 1, 0, 0. All scores of a patient must come from the same model.
    """
    values = np.asarray(score, dtype=np.float64)
    if values.shape != (len(frame),):
        raise InputError(f"{values.shape} scores of {name} for {len(frame)} lesions: give one per row")
    # By isic_id within the patient, as everywhere: sums do not depend on the order of rows.
    order = np.lexsort((pd.Categorical(frame[ID]).codes, pd.Categorical(frame[PATIENT]).codes))
    ordered = pd.DataFrame({PATIENT: pd.Categorical(frame[PATIENT]).take(order)})
    groups = Groups.of(ordered, (PATIENT,))
    columns = {}
    for kind, kernel in _KERNELS.items():
        found = np.empty(len(frame), dtype=np.float32)
        kernel(values[order], groups.rows, groups.starts, found)
        columns[f"{name}_{kind}"] = np.empty_like(found)
        columns[f"{name}_{kind}"][order] = found
    return pd.DataFrame(columns, index=frame.index, copy=False)
