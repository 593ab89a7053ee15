"""Isolation of a lesion among the patient's others in 15 measurements: the winning solution's local
outlier factor.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import PATIENT
from isic.tabular.distances import local_outlier_factor, nearest_neighbours
from isic.tabular.names import MEANING
from isic.tabular.patient_groups import Groups
from isic.tabular.registry import Family, Feature
from isic.tabular.relative import differences
from isic.tabular.spaces import DUCKLING, by_group, standardised

#: Neighbours; fewer in smaller patients.
_NEIGHBOURS = 30
_STEPS = (1, 5, 10, 30)
#: Measurements compared with the most similar lesion.
_TWIN = ("H", "diam", "deltaLBnorm", "norm_color", "norm_border")


def build(frame: pd.DataFrame) -> pd.DataFrame:
    """Local outlier factor and distances to the nearest lesions of the patient, 0 for a lesion
    alone.
    """
    factor, distance, index = outliers(frame)
    columns = {"duckling_lof": factor.astype(np.float32)}
    columns |= {f"duckling_knn{step}": _mean_distance(distance[:, :step]) for step in _STEPS}
    # A single lesion is its own nearest neighbour.
    twin = np.where(index[:, 0] < 0, np.arange(len(frame)), index[:, 0])
    columns |= {
        f"duckling_twin__{v}": values for v, values in differences(frame, _TWIN, twin).items()
    }
    return pd.DataFrame(columns, copy=False)


def outliers(
    frame: pd.DataFrame,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int32]]:
    """Local outlier factor (n,), and distances and rows (n, 30) of the nearest lesions of the
    patient.
    """
    points = standardised(frame, DUCKLING)
    distance = np.full((len(frame), _NEIGHBOURS), np.nan)
    index = np.full((len(frame), _NEIGHBOURS), -1, dtype=np.int32)
    factor = np.empty(len(frame))

    def work(first: int, last: int) -> None:
        nearest_neighbours(points, first, last, distance, index)
        local_outlier_factor(distance, index, first, last, factor)

    by_group(Groups.of(frame, (PATIENT,)), work)
    return factor, distance, index


def _mean_distance(distance: NDArray[np.float64]) -> NDArray[np.float32]:
    """Mean of the distances that exist; 0 where none does."""
    count = np.isfinite(distance).sum(axis=1)
    mean: NDArray[np.float32] = (np.nansum(distance, axis=1) / np.maximum(count, 1)).astype(
        np.float32
    )
    return mean


_SPACE = f"{len(DUCKLING)} measurements standardised within the patient"
FAMILY = Family(
    name="duckling",
    meaning="Isolation among the patient's lesions: local outlier factor and nearest neighbours",
    features=(
        Feature(
            "duckling_lof",
            f"local outlier factor, {_NEIGHBOURS} neighbours, in ({', '.join(DUCKLING)})",
            "1 amid alike lesions, larger when isolated; 1 below 3 lesions",
        ),
        *(
            Feature(
                f"duckling_knn{step}",
                f"mean distance to the {step} nearest in {_SPACE}",
                f"distance to the {step} most similar lesions, sd",
            )
            for step in _STEPS
        ),
        *(
            Feature(
                f"duckling_twin__{v}",
                f"{v} - {v} of the nearest lesion in {_SPACE}",
                f"minus the most similar lesion's: {MEANING[v]}",
            )
            for v in _TWIN
        ),
    ),
    build=build,
    relative=True,
)
