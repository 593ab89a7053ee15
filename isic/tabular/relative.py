"""Building blocks of the families that compare a lesion with others of the same patient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import NUMERIC
from isic.tabular.names import MEANING, OFFICIAL, short
from isic.tabular.parallel import parallel_map
from isic.tabular.patient_groups import Groups
from isic.tabular.registry import lesion_families

#: kernel(values, rows, starts, out): one value per row from the row's group.
Kernel = Callable[
    [NDArray[np.float64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]], None
]

#: Measurements that clinicians and the published models use: colour, contrast, size, border and
#: texture of the lesion and its skin.
CORE: tuple[str, ...] = tuple(
    short(column)
    for column in NUMERIC
    if short(column) not in {"age", "symm_2axis_angle", "x", "y", "z"}
)

#: Compared within parts of the patient: the core, and the formulas that the published models rank
#: highest.
COMPARED: tuple[str, ...] = (
    *CORE,
    "hue_contrast",
    "lesion_color_difference",
    "lesion_size_ratio",
    "lesion_visibility_score",
)

#: Measurements whose group statistics are features: one or two per sign, the others are redundant.
SUMMARISED: tuple[str, ...] = (
    "H",
    "Hext",
    "B",
    "L",
    "Lext",
    "diam",
    "areaMM2",
    "deltaB",
    "deltaLBnorm",
    "stdLExt",
    "norm_border",
    "norm_color",
    "nevi_confidence",
)


def measured_features() -> dict[str, str]:
    """Short name → meaning of the columns of relative families: the measurements, then the measured
    formulas.
    """
    formulas = (
        feature for family in lesion_families() if family.measured for feature in family.features
    )
    return {**MEANING, **{feature.name: feature.meaning for feature in formulas}}


def formulas_only() -> tuple[str, ...]:
    """The measurements and measured formulas that are not in COMPARED."""
    return tuple(name for name in measured_features() if name not in COMPARED)


def official_column(name: str) -> str:
    """Frame column of a short name."""
    return OFFICIAL.get(name, name)


def per_row(
    frame: pd.DataFrame, keys: Sequence[str], names: Sequence[str], kernel: Kernel
) -> dict[str, NDArray[np.float32]]:
    """`kernel` on each named measurement within groups of `keys`; short name → float32 (n,)."""
    groups = Groups.of(frame, keys)

    def one(name: str) -> NDArray[np.float32]:
        out = np.empty(len(frame), dtype=np.float32)
        kernel(frame[official_column(name)].to_numpy(), groups.rows, groups.starts, out)
        return out

    return dict(zip(names, parallel_map(one, names), strict=True))


def differences(
    frame: pd.DataFrame, names: Sequence[str], other: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """Each named measurement minus that of the lesion at position `other` (n,); short name →
    float32 (n,).
    """

    def one(name: str) -> NDArray[np.float32]:
        values = frame[official_column(name)].to_numpy()
        return (values - values[other]).astype(np.float32)

    return dict(zip(names, parallel_map(one, names), strict=True))
