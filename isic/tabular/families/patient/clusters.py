"""Size of a lesion's cluster of similar lesions. An outlier ("ugly duckling") has a small one."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import PATIENT
from isic.tabular.distances import dbscan
from isic.tabular.patient_groups import Groups
from isic.tabular.registry import Family, Feature
from isic.tabular.spaces import SPACES, by_group, raw_points, unit_range

#: scikit-learn's defaults, which the published solution uses on measurements scaled to 0..1.
_RADIUS, _ENOUGH = 0.5, 5
_SITE = "anatom_site_general"


def build(frame: pd.DataFrame) -> pd.DataFrame:
    """Size of the cluster, its share of the group and the lesions outside it, in every space."""
    groups = Groups.of(frame, (PATIENT, _SITE))
    group_size = groups.broadcast(groups.sizes.astype(np.float64))
    columns = {}
    for space, names in SPACES.items():
        size = _cluster_sizes(frame, names, groups)
        columns[f"cluster_{space}_size"] = size
        columns[f"cluster_{space}_share"] = size / group_size
        columns[f"cluster_{space}_others"] = group_size - size
    return pd.DataFrame(
        {name: values.astype(np.float32) for name, values in columns.items()}, copy=False
    )


def _cluster_sizes(
    frame: pd.DataFrame, names: tuple[str, ...], groups: Groups
) -> NDArray[np.float64]:
    points = np.ascontiguousarray(raw_points(frame, names)[:, groups.rows])
    scaled = unit_range(points, groups) if len(frame) else points
    ordered_sizes = np.empty(len(frame))
    by_group(
        groups, lambda first, last: dbscan(scaled, first, last, _RADIUS, _ENOUGH, ordered_sizes)
    )
    sizes = np.empty(len(frame))
    sizes[groups.rows] = ordered_sizes
    return sizes


def _features(space: str) -> tuple[Feature, ...]:
    where = (
        f"DBSCAN(eps {_RADIUS}, {_ENOUGH} lesions) on ({', '.join(SPACES[space])}) scaled to 0..1"
        f" over patient × {_SITE}"
    )
    return (
        Feature(
            f"cluster_{space}_size",
            f"size of the cluster, {where}",
            f"lesions of the same site alike in {space}, itself included; 1 for an outlier",
        ),
        Feature(
            f"cluster_{space}_share",
            f"size of the cluster / n, {where}",
            f"share of the site's lesions alike in {space}, 0 to 1",
        ),
        Feature(
            f"cluster_{space}_others",
            f"n - size of the cluster, {where}",
            f"lesions of the same site not alike in {space}",
        ),
    )


FAMILY = Family(
    name="clusters",
    meaning="Size of the density cluster among the patient's lesions of the same site",
    features=tuple(feature for space in SPACES for feature in _features(space)),
    build=build,
    relative=True,
)
