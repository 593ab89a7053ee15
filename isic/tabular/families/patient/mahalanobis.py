"""Distance from the patient's centre that counts correlated measurements once."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import PATIENT
from isic.tabular.patient_groups import Groups
from isic.tabular.registry import Family, Feature
from isic.tabular.spaces import DUCKLING, SPACES, standardised

_SPACES = {
    "colour": ("A", "B", "L", "Aext", "Bext", "Lext"),
    "shape": SPACES["shape"],
    "duckling": DUCKLING,
}


def build(frame: pd.DataFrame) -> pd.DataFrame:
    """Mahalanobis distance within the patient in every space, 0 for a lesion alone."""
    groups = Groups.of(frame, (PATIENT,))
    columns = {}
    for space, names in _SPACES.items():
        points = standardised(frame, names)
        distances = np.empty(len(frame), dtype=np.float32)
        for first, last in zip(groups.starts[:-1], groups.starts[1:], strict=True):
            distances[first:last] = _distance(points[:, first:last])
        columns[f"mahalanobis_{space}"] = distances
    return pd.DataFrame(columns, copy=False)


def _distance(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each column of `points` (d, n), already centred, under the shrunken covariance.

    With fewer lesions than measurements the covariance has no inverse, so it is mixed with the
    identity: (n · cov + d · I) / (n + d), which is the covariance for many lesions and plain
    distance for few.
    """
    dimensions, size = points.shape
    covariance = (points @ points.T + dimensions * np.eye(dimensions)) / (size + dimensions)
    squared = (points * np.linalg.solve(covariance, points)).sum(axis=0)
    distance: NDArray[np.float64] = np.sqrt(np.maximum(squared, 0.0))
    return distance


FAMILY = Family(
    name="mahalanobis",
    meaning="Mahalanobis distance from the patient's centre",
    features=tuple(
        Feature(
            f"mahalanobis_{space}",
            f"sqrt(z' S⁻¹ z), z = ({', '.join(names)}) standardised within the patient, "
            f"S = (n cov + {len(names)} I) / (n + {len(names)})",
            f"distance from the patient's mean in {space}, correlated measurements counted"
            " once, sd",
        )
        for space, names in _SPACES.items()
    ),
    build=build,
    relative=True,
)
