"""Colour pairs and restated formulas against the patient.

A restated formula has the same order of lesions as another column, so its value is redundant for a
tree. Its z-score is not: the formula is not linear in that column.
"""

from __future__ import annotations

import pandas as pd

from isic.core.schema import PATIENT
from isic.tabular.families.lesion import colour_pairs
from isic.tabular.formulas import formula_family
from isic.tabular.kernels import zscore
from isic.tabular.registry import Family, Feature
from isic.tabular.relative import per_row

#: Published formulas with the same order as another column.
_RESTATED = formula_family(
    "restated",
    "Published formulas with the same order as another column",
    (
        (
            "luminance_contrast",
            "abs(L - Lext)",
            "absolute lightness contrast (deltaL), L*a*b* units",
        ),
        (
            "std_dev_contrast",
            "sqrt((deltaA**2 + deltaB**2 + deltaL**2) / 3)",
            "root mean square contrast (lesion_color_difference), L*a*b* units",
        ),
        ("lab_chroma", "sqrt(A**2 + B**2)", "chroma (C), L*a*b* units"),
        ("lab_hue", "atan2(B, A)", "hue (H), radians"),
        (
            "texture_uniformity",
            "1 / (1 + color_std_mean)",
            "uniformity of colour (color_std_mean), no unit",
        ),
        (
            "area_to_perimeter_ratio",
            "areaMM2 / perimeterMM",
            "area per perimeter (perimeter_to_area_ratio), mm",
        ),
        (
            "elongation",
            "diam / minorAxisMM",
            "largest by smallest diameter (lesion_size_ratio), no unit",
        ),
        (
            "border_length_ratio",
            "perimeterMM / (2 * pi * sqrt(areaMM2 / pi))",
            "perimeter against a circle's (area_perim_ratio), no unit",
        ),
        (
            "shape_irregularity",
            "perimeterMM / (2 * sqrt(pi * areaMM2))",
            "the same, the second place's name, no unit",
        ),
        (
            "circularity",
            "4 * pi * areaMM2 / perimeterMM**2",
            "1 for a circle (area_perim_ratio), no unit",
        ),
        (
            "perimeter_root_area",
            "perimeterMM / sqrt(areaMM2)",
            "jaggedness (area_perim_ratio), no unit",
        ),
        (
            "area_ratio",
            "pi * (diam / 2)**2 / areaMM2",
            "circle on the diameter by area (area_diameter_ratio), no unit",
        ),
        (
            "weighted_area_ratio",
            "log1p(pi * (diam / 2)**2)",
            "log area of that circle (diam), log mm²",
        ),
        ("symmetry", "1 - symm_2axis", "symmetry of the border (symm_2axis), no unit"),
        (
            "size_age_ratio",
            "diam / age",
            "diameter per year of age (normalized_lesion_size), mm/year",
        ),
    ),
    measured=False,
)
_SOURCES = (colour_pairs.FAMILY, _RESTATED)
_FORMULAS = tuple(feature for family in _SOURCES for feature in family.features)


def build(frame: pd.DataFrame) -> pd.DataFrame:
    """z-score of every formula within the patient."""
    wide = pd.concat([frame[[PATIENT]], *(family.build(frame) for family in _SOURCES)], axis=1)
    columns = per_row(wide, (PATIENT,), [feature.name for feature in _FORMULAS], zscore)
    return pd.DataFrame(
        {f"patient_pairs_z__{v}": values for v, values in columns.items()}, copy=False
    )


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
