"""Differences and ratios to the patient's largest and smallest lesion."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.schema import PATIENT
from isic.tabular.names import MEANING
from isic.tabular.patient_groups import Groups
from isic.tabular.registry import Family, Feature
from isic.tabular.relative import CORE, differences, official_column

#: Sizes, always positive, so that ratios are defined.
SIZES = ("diam", "areaMM2", "minorAxisMM", "perimeterMM")
_ANCHORS = ("largest", "smallest")


def build(frame: pd.DataFrame) -> pd.DataFrame:
    """Differences and ratios to the lesion of largest and of smallest area in the patient (ties:
    the lower isic_id).
    """
    groups = Groups.of(frame, (PATIENT,))
    # Stable, within contiguous patients: the first row of each is its smallest, or its largest by
    # the negative area.
    area = frame[official_column("areaMM2")].to_numpy()
    patient = np.repeat(np.arange(len(groups.sizes)), groups.sizes)
    smallest = np.lexsort((area, patient))[groups.starts[:-1]]
    largest = np.lexsort((-area, patient))[groups.starts[:-1]]
    columns: dict[str, NDArray[np.float32]] = {}
    for anchor, rows in zip(_ANCHORS, (largest, smallest), strict=True):
        of_row = np.repeat(rows, groups.sizes)
        columns |= {
            f"patient_{anchor}__{v}": values
            for v, values in differences(frame, CORE, of_row).items()
        }
        for v in SIZES:
            values = frame[official_column(v)].to_numpy()
            columns[f"patient_{anchor}_ratio__{v}"] = (values / (values[of_row] + 1e-5)).astype(
                np.float32
            )
    return pd.DataFrame(columns, copy=False)


def _features(anchor: str) -> tuple[Feature, ...]:
    return (
        *(
            Feature(
                f"patient_{anchor}__{v}",
                f"{v} - {v} of the patient's {anchor} lesion (areaMM2)",
                f"minus the {anchor} lesion's: {MEANING[v]}",
            )
            for v in CORE
        ),
        *(
            Feature(
                f"patient_{anchor}_ratio__{v}",
                f"{v} / ({v} of the patient's {anchor} lesion + 1e-5)",
                f"as a multiple of the {anchor} lesion's: {MEANING[v]}",
            )
            for v in SIZES
        ),
    )


FAMILY = Family(
    name="patient_anchor",
    meaning="Against the patient's largest and smallest lesion",
    features=(*_features("largest"), *_features("smallest")),
    build=build,
    relative=True,
)
