"""Groups of lesions that a model is judged on apart, the same for the report and for the gate.

They say how lesions were collected and lit as much as who they belong to.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from isic.core.schema import PATIENT

#: Automatically selected lesions are at least this wide; smaller ones are there because a clinician tagged them, so
#: the others are judged without that hint.
SELECTED_MM = 2.5

#: Name of a lesion's level where its value is missing.
MISSING = "missing"

_AGES = {"under 40": 40, "40 to 59": 60, "60 to 74": 75, "75 and over": np.inf}

#: Bands of the individual typology angle by their upper bound, degrees, darkest first (Chardon et al., Int. J. Cosmet.
#: Sci. 13, 191, 1991; Del Bino & Bernerd, Br. J. Dermatol. 169 suppl. 3, 33, 2013).
TONES = {"dark": -30, "brown": 10, "tan": 28, "intermediate": 41, "light": 55, "very light": np.inf}


def skin_tone(rows: pd.DataFrame) -> pd.Series:
    """Skin-tone proxy per lesion, one value per patient: the band of the median angle of the skin around the lesions.

    A patient is of one group: single angles vary with the place on the body, its tan and the light it got.
    """
    angle = pd.Series(np.degrees(np.arctan2(rows["tbp_lv_Lext"] - 50, rows["tbp_lv_Bext"])), index=rows.index)
    return _banded(angle.groupby(rows[PATIENT]).transform("median"), TONES, right=True)


def _age(rows: pd.DataFrame) -> pd.Series:
    return _banded(rows["age_approx"], _AGES, right=False)


def _size(rows: pd.DataFrame) -> pd.Series:
    wide = rows["clin_size_long_diam_mm"] >= SELECTED_MM
    return wide.map({True: f"{SELECTED_MM} mm and over", False: f"under {SELECTED_MM} mm"})


def _banded(values: pd.Series, bands: dict[str, float], right: bool) -> pd.Series:
    """Name of the band of each value; its upper bound belongs to it if `right`."""
    return pd.cut(values, [-np.inf, *bands.values()], right=right, labels=list(bands)).astype("str")


GROUPS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "size": _size,
    "hospital": lambda rows: rows["attribution"],
    "sex": lambda rows: rows["sex"],
    "age": _age,
    "site": lambda rows: rows["anatom_site_general"],
    "tile type": lambda rows: rows["tbp_tile_type"],
    "skin tone (proxy)": skin_tone,
}


def levels(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Group -> level of each lesion, as text; MISSING where the value is. `rows`: metadata with patient_id."""
    found = {name: level_of(rows) for name, level_of in GROUPS.items()}
    return {name: values.fillna(MISSING).replace("nan", MISSING).astype("str") for name, values in found.items()}
