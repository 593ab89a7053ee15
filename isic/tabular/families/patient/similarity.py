"""Distances to the patient's lesions of the same site, in five spaces."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import PATIENT
from isic.tabular.distances import distance_statistics
from isic.tabular.names import MEANING
from isic.tabular.patient_groups import Groups
from isic.tabular.registry import Family, Feature
from isic.tabular.relative import differences, official_column
from isic.tabular.spaces import SPACES, by_group, raw_points, standardised

_STATISTICS = ("mean", "median", "sd", "min", "max")
#: Measurements compared with the most and the least similar lesion, and the spaces of that
#: similarity.
_COMPARED = ("H", "diam", "deltaLBnorm", "norm_color")
_ANCHORED = ("colour", "shape")
_SITE = "anatom_site_general"


def build(frame: pd.DataFrame) -> pd.DataFrame:
    """Statistics of the distances, and differences to the most and least similar lesion; 0 for a
    lesion alone.
    """
    groups = Groups.of(frame, (PATIENT, _SITE))
    columns: dict[str, NDArray[np.float32]] = {}
    for space, names in SPACES.items():
        points = raw_points(frame, names) if space == "position" else standardised(frame, names)
        table, closest, farthest = _distances(points, groups)
        columns |= {
            f"similarity_{space}_{name}": table[:, index] for index, name in enumerate(_STATISTICS)
        }
        if space in _ANCHORED:
            for end, other in (("closest", closest), ("farthest", farthest)):
                compared = differences(frame, _COMPARED, other)
                columns |= {
                    f"similarity_{space}_{end}__{v}": values for v, values in compared.items()
                }
                diameter = frame[official_column("diam")].to_numpy()
                ratio = diameter / (diameter[other] + 1e-5)
                columns[f"similarity_{space}_{end}_ratio__diam"] = ratio.astype(np.float32)
    return pd.DataFrame(
        {feature.name: columns[feature.name] for feature in FAMILY.features}, copy=False
    )


def _distances(
    points: NDArray[np.float64], groups: Groups
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Statistics (n, 5) and rows of the most and least similar lesion, in the frame's order."""
    ordered = np.ascontiguousarray(points[:, groups.rows])
    count = ordered.shape[1]
    statistics = np.empty((count, len(_STATISTICS)))
    near, far = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    by_group(
        groups, lambda first, last: distance_statistics(ordered, first, last, statistics, near, far)
    )
    table = np.empty(statistics.shape, dtype=np.float32)
    closest, farthest = np.empty_like(near), np.empty_like(far)
    table[groups.rows] = statistics
    closest[groups.rows], farthest[groups.rows] = groups.rows[near], groups.rows[far]
    return table, closest, farthest


def _features(space: str) -> tuple[Feature, ...]:
    names = ", ".join(SPACES[space])
    scale, unit = ("", "mm") if space == "position" else (" standardised within the patient", "sd")
    distances = tuple(
        Feature(
            f"similarity_{space}_{name}",
            f"{name} of the distances in ({names}){scale} over patient × {_SITE}",
            f"{name} distance in {space} to the patient's lesions of the same site, {unit}",
        )
        for name in _STATISTICS
    )
    return distances + (_anchored(space) if space in _ANCHORED else ())


def _anchored(space: str) -> tuple[Feature, ...]:
    features: list[Feature] = []
    for end, degree in (("closest", "most"), ("farthest", "least")):
        where = f"the {degree} similar lesion in {space} over patient × {_SITE}"
        features += [
            Feature(
                f"similarity_{space}_{end}__{v}",
                f"{v} - {v} of {where}",
                f"minus {where}: {MEANING[v]}",
            )
            for v in _COMPARED
        ]
        features.append(
            Feature(
                f"similarity_{space}_{end}_ratio__diam",
                f"diam / (diam of {where} + 1e-5)",
                f"diameter as a multiple of {where}",
            )
        )
    return tuple(features)


FAMILY = Family(
    name="similarity",
    meaning="Distances to the patient's lesions of the same site in colour, shape and position",
    features=tuple(feature for space in SPACES for feature in _features(space)),
    build=build,
    relative=True,
)
