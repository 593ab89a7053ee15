"""Differences to the nearest lesion on the body, whose skin had a similar exposure to the sun."""

from __future__ import annotations

import numpy as np
import pandas as pd

from isic.core.schema import PATIENT
from isic.tabular.distances import nearest_neighbours
from isic.tabular.names import MEANING
from isic.tabular.patient_groups import Groups
from isic.tabular.registry import Family, Feature
from isic.tabular.relative import CORE, differences
from isic.tabular.spaces import by_group, raw_points

_AROUND = 5


def build(frame: pd.DataFrame) -> pd.DataFrame:
    """Distance and differences to the nearest lesion of the patient; 0 for a lesion alone."""
    points = raw_points(frame, ("x", "y", "z"))
    distance = np.full((len(frame), _AROUND), np.nan)
    index = np.full((len(frame), _AROUND), -1, dtype=np.int32)
    by_group(
        Groups.of(frame, (PATIENT,)),
        lambda first, last: nearest_neighbours(points, first, last, distance, index),
    )
    next_to = np.where(index[:, 0] < 0, np.arange(len(frame)), index[:, 0])
    around = np.nansum(distance, axis=1) / np.maximum(np.isfinite(distance).sum(axis=1), 1)
    columns = {
        "nearest_distance": np.nan_to_num(distance[:, 0], nan=0.0).astype(np.float32),
        f"nearest_distance{_AROUND}": around.astype(np.float32),
        **{f"nearest__{v}": values for v, values in differences(frame, CORE, next_to).items()},
    }
    return pd.DataFrame(columns, copy=False)


FAMILY = Family(
    name="nearest",
    meaning="Against the patient's nearest lesion on the body",
    features=(
        Feature(
            "nearest_distance",
            "smallest distance in (x, y, z) over the patient",
            "distance to the nearest lesion, mm",
        ),
        Feature(
            f"nearest_distance{_AROUND}",
            f"mean of the {_AROUND} smallest distances in (x, y, z)",
            f"mean distance to the {_AROUND} nearest lesions, mm",
        ),
        *(
            Feature(
                f"nearest__{v}",
                f"{v} - {v} of the nearest lesion in (x, y, z)",
                f"minus the nearest lesion's: {MEANING[v]}",
            )
            for v in CORE
        ),
    ),
    build=build,
    relative=True,
)
