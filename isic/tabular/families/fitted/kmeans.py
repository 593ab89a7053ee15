"""Clusters of training rows, and the distance of a lesion from the centre of its cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numba import njit
from numpy.typing import NDArray

from isic.tabular.fitted import FittedColumns, FittedFamily
from isic.tabular.hospital_groups import RARE, core_values, mean_sd
from isic.tabular.kernels import EPSILON
from isic.tabular.names import MEANING
from isic.tabular.registry import Feature
from isic.tabular.relative import CORE

#: The winning solution's number.
_CLUSTERS = 29
#: Training rows used by k-means: more do not move 29 centres.
_SAMPLE = 50_000
_ROUNDS = 60


def fit(frame: pd.DataFrame, target: NDArray[np.float64]) -> dict[str, Any]:
    """Scale of the core measurements, cluster centres in it, and mean and sd of each measurement in
    each cluster.
    """
    values = core_values(frame)
    mean, sd = mean_sd(values)
    points = _points(values, mean, sd)
    rng = np.random.default_rng(0)
    centres = _centres(points[rng.permutation(len(points))[:_SAMPLE]], rng)
    member = _nearest(points, centres)
    levels = [_level(values[member == cluster], mean, sd) for cluster in range(len(centres))]
    return {
        "mean": mean.tolist(),
        "sd": sd.tolist(),
        "centres": centres.tolist(),
        "levels": [[part.tolist() for part in level] for level in levels],
    }


def _centres(points: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Lloyd's algorithm from k-means++ seeds; fewer centres than _CLUSTERS where fewer points
    differ.

    Not scikit-learn's: its sums are split over threads and round differently from run to run, and
    equal training rows must give equal bytes.
    """
    chosen = [points[0]]
    away = ((points - chosen[0]) ** 2).sum(axis=1)
    while len(chosen) < _CLUSTERS and away.max() > 0:
        chosen.append(points[rng.choice(len(points), p=away / away.sum())])
        away = np.minimum(away, ((points - chosen[-1]) ** 2).sum(axis=1))
    centres = np.array(chosen)
    for _ in range(_ROUNDS):
        member = _nearest(points, centres)
        count = np.bincount(member, minlength=len(centres))
        total = np.column_stack([np.bincount(member, column, len(centres)) for column in points.T])
        moved = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _level(
    values: NDArray[np.float64], mean: NDArray[np.float64], sd: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and sd of a cluster's measurements; `mean` and `sd` of all rows where fewer than RARE of
    its rows have one.

    The sd of one row is 0, and the z-score of the next lesion of its cluster would be huge.
    """
    rare = np.isfinite(values).sum(axis=0) < RARE
    own_mean, own_sd = mean_sd(values)
    return np.where(rare, mean, own_mean), np.where(rare, sd, own_sd)


def apply(state: Mapping[str, Any], frame: pd.DataFrame) -> FittedColumns:
    """Distance to the nearest centre, and z-scores within that cluster's training rows (all rows if
    it is small).
    """
    values = core_values(frame)
    centres = np.array(state["centres"])
    points = _points(values, np.array(state["mean"]), np.array(state["sd"]))
    member = _nearest(points, centres)
    level = np.array(state["levels"])[member]
    z = ((values - level[:, 0]) / (level[:, 1] + EPSILON)).astype(np.float32)
    away = np.sqrt(((points - centres[member]) ** 2).sum(axis=1)).astype(np.float32)
    scores = {
        f"fitted_cluster_z__{v}": np.ascontiguousarray(z[:, index]) for index, v in enumerate(CORE)
    }
    return {"fitted_cluster_distance": away, **scores}


@njit(nogil=True, cache=True)
def _nearest(points, centres):  # type: ignore[no-untyped-def]
    """Index of the nearest centre of each point. Row by row, so that a row does not depend on its
    batch.
    """
    member = np.empty(len(points), dtype=np.int64)
    for row in range(len(points)):
        best = np.inf
        for cluster in range(len(centres)):
            away = 0.0
            for dimension in range(points.shape[1]):
                step = points[row, dimension] - centres[cluster, dimension]
                away += step * step
            if away < best:
                best, member[row] = away, cluster
    return member


def _points(
    values: NDArray[np.float64], mean: NDArray[np.float64], sd: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Standardised values; a missing one counts as the mean."""
    return np.nan_to_num((values - mean) / (sd + EPSILON), nan=0.0)


_WHERE = (
    f"k-means with {_CLUSTERS} clusters of training rows in {len(CORE)} standardised measurements"
)
FAMILY = FittedFamily(
    name="kmeans",
    meaning=f"z-score against training rows of the same kind, one of {_CLUSTERS} by k-means",
    features=(
        Feature(
            "fitted_cluster_distance",
            f"distance to the nearest centre, {_WHERE}",
            "distance to the nearest kind, sd",
        ),
        *(
            Feature(
                f"fitted_cluster_z__{v}",
                f"({v} - mean({v})) / (sd({v}) + 1e-5) over the cluster (all rows if under {RARE}),"
                f" {_WHERE}",
                f"sd from the mean of training rows of the same kind: {MEANING[v]}",
            )
            for v in CORE
        ),
    ),
    fit=fit,
    apply=apply,
)
