"""The colour pairs and restated formulas against the patient: their z-scores differ even where their order does not."""

from __future__ import annotations

import pandas as pd

from isic.core.schema import PATIENT
from isic.tabular.families.lesion import colour_pairs, restated
from isic.tabular.kernels import zscore
from isic.tabular.registry import Family, Feature
from isic.tabular.relative import per_row

_SOURCES = (colour_pairs.FAMILY, restated.FAMILY)
_FORMULAS = tuple(feature for family in _SOURCES for feature in family.features)


def build(frame: pd.DataFrame) -> pd.DataFrame:
    """z-score of every formula within the patient."""
    wide = pd.concat([frame[[PATIENT]], *(family.build(frame) for family in _SOURCES)], axis=1)
    columns = per_row(wide, (PATIENT,), [feature.name for feature in _FORMULAS], zscore)
    return pd.DataFrame({f"patient_pairs_z__{v}": values for v, values in columns.items()}, copy=False)


FAMILY = Family(
    name="patient_pairs_z",
    meaning="z-score within the patient, of colour pairs and restated formulas",
    features=tuple(
        Feature(
            f"patient_pairs_z__{v.name}",
            f"({v.name} - mean({v.name})) / (sd({v.name}) + 1e-5) over the patient",
            f"sd from the patient's mean: {v.meaning}",
        )
        for v in _FORMULAS
    ),
    build=build,
    relative=True,
)
