"""Spaces in which lesions are compared: sets of measurements as points, scaled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import PATIENT
from isic.tabular.parallel import parallel_map
from isic.tabular.patient_groups import Groups
from isic.tabular.relative import official_column

#: Column groups of the published pairwise distances.
SPACES: dict[str, tuple[str, ...]] = {
    "colour": ("A", "B", "L", "deltaA", "deltaB", "deltaL"),
    "inner": ("A", "B", "C", "H", "L"),
    "outer": ("Aext", "Bext", "Cext", "Hext", "Lext"),
    "shape": (
        "diam",
        "minorAxisMM",
        "areaMM2",
        "perimeterMM",
        "eccentricity",
        "norm_border",
        "symm_2axis",
    ),
    "position": ("x", "y", "z"),
}

#: The 15 distinct columns of the winning solution's local outlier factor.
DUCKLING: tuple[str, ...] = (
    "H",
    "hue_contrast",
    "age_normalized_nevi_confidence_2",
    "deltaB",
    "color_uniformity",
    "z",
    "diam",
    "y",
    "position_distance_3d",
    "stdLExt",
    "mean_hue_difference",
    "age_normalized_nevi_confidence",
    "lesion_visibility_score",
    "minorAxisMM",
    "Hext",
)


def standardised(frame: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float64]:
    """Points (measurements, lesions) in sd from the patient's mean; a missing or constant
    measurement is 0.

    As in scikit-learn's scaler, nothing is added to the sd; the z-score features add 1e-5.
    """
    groups = Groups.of(frame, (PATIENT,))
    sizes = groups.sizes

    def one(name: str) -> NDArray[np.float64]:
        values = frame[official_column(name)].to_numpy()
        present = np.isfinite(values)
        filled = np.where(present, values, 0.0)
        count = np.maximum(np.add.reduceat(present.astype(np.float64), groups.starts[:-1]), 1)
        mean = np.add.reduceat(filled, groups.starts[:-1]) / count
        away = np.where(present, values - np.repeat(mean, sizes), 0.0)
        variance = np.add.reduceat(away**2, groups.starts[:-1]) / count
        # A constant column differs from its mean by rounding only, which must not be scaled to a
        # whole sd. The bound is scikit-learn's: a measurement with tiny values still counts.
        rounding = np.finfo(np.float64).eps * count
        constant = variance <= rounding * variance + (rounding * mean) ** 2
        sd = np.where(constant, np.inf, np.sqrt(variance))
        scaled: NDArray[np.float64] = away / np.repeat(sd, sizes)
        return scaled

    return np.stack(parallel_map(one, names)) if len(frame) else np.zeros((len(names), 0))


def unit_range(points: NDArray[np.float64], groups: Groups) -> NDArray[np.float64]:
    """Each row of `points` (in the groups' order) from 0 at the group's smallest to 1 at its
    largest; constant: 0.
    """
    starts, sizes = groups.starts[:-1], groups.sizes
    low = np.minimum.reduceat(points, starts, axis=1)
    width = np.maximum.reduceat(points, starts, axis=1) - low
    width[width == 0] = np.inf
    scaled: NDArray[np.float64] = (points - np.repeat(low, sizes, axis=1)) / np.repeat(
        width, sizes, axis=1
    )
    return scaled


def raw_points(frame: pd.DataFrame, names: Sequence[str]) -> NDArray[np.float64]:
    """Points (measurements, lesions) unscaled; missing is 0."""
    return np.stack(
        [np.nan_to_num(frame[official_column(name)].to_numpy(), nan=0.0) for name in names]
    )


def by_group(groups: Groups, work: Callable[[int, int], None]) -> None:
    """`work(first, last)` for every group, in positions of `groups.rows`; the largest first, for
    even threads.
    """
    bounds = [
        (int(groups.starts[g]), int(groups.starts[g + 1]))
        for g in np.argsort(-groups.sizes, kind="stable")
    ]
    parallel_map(lambda bound: work(*bound), bounds)
