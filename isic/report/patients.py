"""Entries of the body map: lesions of a patient by position on the body, the fifteen highest with
tiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from isic.core.metric import TOP
from isic.core.schema import ID, PATIENT, TARGET
from isic.report.lesions import TileGallery, lesion_values

#: Lesions drawn per patient: the highest scores, the malignant lesions and a random sample of the
#: rest. All lesions would overlap and add two megabytes to the page of the full data.
MAX_DRAWN = 250


def patient_entries(
    lesions: pd.DataFrame, gallery: TileGallery, seed: int = 0
) -> list[dict[str, Any]]:
    """One entry per patient with a malignant lesion, sorted by the worst rank of a malignant
    lesion.

    `lesions` is `isic.report.lesions.overview`. Tiles of the top fifteen and of the malignant
    lesions are added to `gallery` in this order until its budget is spent.
    """
    malignant = lesions[lesions[TARGET] == 1]
    worst = malignant.groupby(PATIENT)["rank"].max().sort_values(ascending=False, kind="stable")
    of_patient = dict(
        iter(lesions[lesions[PATIENT].isin(worst.index)].groupby(PATIENT, sort=False))
    )
    rng = np.random.default_rng(seed)
    return [_entry(of_patient[name], gallery, rng) for name in worst.index]


def patient_entry(
    lesions: pd.DataFrame, gallery: TileGallery, keep: str, seed: int = 0
) -> dict[str, Any]:
    """The entry of one patient; lesion `keep` is always drawn."""
    return _entry(lesions, gallery, np.random.default_rng(seed), keep)


def _entry(
    lesions: pd.DataFrame, gallery: TileGallery, rng: np.random.Generator, keep: str = ""
) -> dict[str, Any]:
    lesions = lesions.sort_values("rank", kind="stable")
    drawn = _sample(lesions, rng, keep)
    listed = lesions[(lesions["rank"] <= TOP) | (lesions[TARGET] == 1)]
    for isic_id in listed["isic_id"]:
        gallery.add(isic_id)

    first = lesions.iloc[0]
    malignant = lesions.loc[lesions[TARGET] == 1, "rank"]
    return {
        "id": first[PATIENT],
        "hospital": first["hospital"],
        "sex": first["sex"],
        "age": None if lesions["age"].isna().all() else int(lesions["age"].max()),
        "n": len(lesions),
        "drawn": len(drawn),
        "ranks": [int(rank) for rank in malignant],
        "found": int((malignant <= TOP).sum()),
        "map": _map(drawn, lesions),
        "lesions": [_own_values(lesion) for _, lesion in listed.iterrows()],
    }


def _own_values(lesion: pd.Series) -> dict[str, Any]:
    """The lesion's values without those of its patient, which are stored once per entry (a page has
    about 4,000 lesions).
    """
    values = lesion_values(lesion)
    return {
        name: values[name]
        for name in values
        if name not in ("patient", "hospital", "sex", "age", "tile_type")
    }


def _sample(lesions: pd.DataFrame, rng: np.random.Generator, keep: str) -> pd.DataFrame:
    if len(lesions) <= MAX_DRAWN:
        return lesions

    kept = (lesions["rank"] <= MAX_DRAWN // 4) | (lesions[TARGET] == 1) | (lesions[ID] == keep)
    chosen = kept.to_numpy(copy=True)
    rest = rng.choice(np.flatnonzero(~chosen), MAX_DRAWN - int(chosen.sum()), replace=False)
    chosen[rest] = True
    return lesions[chosen]


def _map(drawn: pd.DataFrame, lesions: pd.DataFrame) -> dict[str, list[Any]]:
    """Parallel lists, short keys: x, y as plotted, b 1 for the back, v log10 of `top`, d diameter,
    t target, r rank.
    """
    back = _back(drawn, float(lesions["z"].median()))
    # In the file, left is negative. A person's left is on the right of the front view and on the
    # left of the back view.
    x = np.where(back, drawn["x"], -drawn["x"])
    return {
        "x": _round_all(x),
        "y": _round_all(drawn["y"].to_numpy()),
        "b": [int(flag) for flag in back],
        "v": [round(float(value), 2) for value in np.log10(drawn["top"])],
        "d": [round(float(value), 1) if np.isfinite(value) else 2.0 for value in drawn["diameter"]],
        "t": [int(value) for value in drawn[TARGET]],
        "r": [int(value) for value in drawn["rank"]],
    }


def _back(lesions: pd.DataFrame, middle: float) -> np.ndarray:
    """Mask (n,) of lesions drawn on the back: by the location if it gives a side, else by depth
    (back: positive z).
    """
    site = lesions["site"]
    back, front = site.str.startswith("Torso Back"), site.str.startswith("Torso Front")
    return np.asarray(back | (~front & (lesions["z"] > middle)))


def _round_all(values: np.ndarray) -> list[int | None]:
    return [round(float(value)) if np.isfinite(value) else None for value in values]
