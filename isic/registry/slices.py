"""Challenger and champion on parts of the population, so that a gain in all does not hide a loss in some.

Groups say how lesions were collected and lit as much as who they belong to; with few malignant lesions a difference is
chance, so such slices are shown and not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from isic.core.metric import pauc
from isic.core.schema import TARGET

#: Automatically selected lesions are at least this wide; smaller ones were tagged by a clinician, as every malignant
#: one was, so the rest of the population is judged without that hint.
SELECTED_MM = 2.5


class Slice(NamedTuple):
    """pAUC of both on one group, None where it has one class only; `judged` if it has malignant lesions enough."""

    group: str
    level: str
    n: int
    positives: int
    challenger: float | None
    champion: float | None
    judged: bool

    @property
    def gain(self) -> float | None:
        """Challenger minus champion."""
        return None if self.challenger is None or self.champion is None else self.challenger - self.champion


def _age_band(rows: pd.DataFrame) -> pd.Series:
    bands = pd.cut(rows["age_approx"], [-np.inf, 40, 60, 75, np.inf], right=False)
    return bands.cat.rename_categories(["under 40", "40 to 59", "60 to 74", "75 and over"]).astype("str")


def _skin_tone(rows: pd.DataFrame) -> pd.Series:
    """Individual typology angle of the skin around the lesion, a proxy of skin tone under unknown lighting.

    Bands after Chardon et al., Int. J. Cosmet. Sci. 13, 191 (1991).
    """
    angle = np.degrees(np.arctan2(rows["tbp_lv_Lext"] - 50, rows["tbp_lv_Bext"]))
    bands = pd.cut(angle, [-np.inf, 10, 28, 41, np.inf])
    return bands.cat.rename_categories(["brown or dark", "tan", "intermediate", "light"]).astype("str")


def _selected(rows: pd.DataFrame) -> pd.Series:
    return rows["clin_size_long_diam_mm"].ge(SELECTED_MM).map({True: f"at least {SELECTED_MM} mm", False: "smaller"})


GROUPS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    "hospital": lambda rows: rows["attribution"],
    "sex": lambda rows: rows["sex"],
    "age": _age_band,
    "site": lambda rows: rows["anatom_site_general"],
    "lighting": lambda rows: rows["tbp_tile_type"],
    "skin tone (proxy)": _skin_tone,
    "diameter": _selected,
}


def compare_slices(rows: pd.DataFrame, min_positives: int) -> Iterator[Slice]:
    """Every level of every group, largest first. `rows`: metadata with target, score and score_champion."""
    for group, level_of in GROUPS.items():
        levels = level_of(rows).astype("str").fillna("unknown")
        for level in levels.value_counts().index:
            part = rows[levels == level]
            yield _slice(group, str(level), part, min_positives)


def _slice(group: str, level: str, part: pd.DataFrame, min_positives: int) -> Slice:
    positives = int(part[TARGET].sum())
    both = 0 < positives < len(part)
    new, old = (pauc(part[TARGET], part[name]) if both else None for name in ("score", "score_champion"))
    return Slice(group, level, len(part), positives, new, old, judged=both and positives >= min_positives)
