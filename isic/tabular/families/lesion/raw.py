"""The measurements and categories of the metadata file, unchanged."""

from __future__ import annotations

import pandas as pd

from isic.core.schema import CATEGORICAL, NUMERIC
from isic.tabular.names import MEANING, short
from isic.tabular.registry import Family, Feature

_CATEGORY_MEANING = {
    "sex": "sex, male or female",
    "anatom_site_general": "one of five sites of the body",
    "tbp_tile_type": "lighting of the photograph: 3D: XP or 3D: white",
    "tbp_lv_location": "one of 21 parts of the body",
    "tbp_lv_location_simple": "one of 8 parts of the body",
    "attribution": "institution",
}


def build(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns as they are; an infinite measurement is missing."""
    return frame[[*NUMERIC, *CATEGORICAL]].astype(dict.fromkeys(CATEGORICAL, "str"))


FAMILY = Family(
    name="raw",
    meaning="Measurements and categories of the metadata file",
    features=(
        *(Feature(column, short(column), MEANING[short(column)]) for column in NUMERIC),
        *(Feature(column, column, _CATEGORY_MEANING[column]) for column in CATEGORICAL),
    ),
    build=build,
)
