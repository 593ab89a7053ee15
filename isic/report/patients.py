"""The body map: every patient with a malignant lesion, its lesions where they lie, the fifteen highest with tiles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from isic.core.metric import TOP
from isic.core.schema import ID, PATIENT, TARGET
from isic.report.lesions import TileGallery, describe

#: Lesions drawn per patient: the highest scored, the malignant ones and an even sample of the rest. More would cost the
#: page of the full data two megabytes and hide one another.
DRAWN = 250


def patients(lesions: pd.DataFrame, gallery: TileGallery, seed: int = 0) -> list[dict[str, Any]]:
    """One entry per patient with a malignant lesion, the one whose malignant lesion ranks worst first.

    `lesions` is `isic.report.lesions.overview`. Tiles of the top fifteen and of the malignant ones go into `gallery`
    patient by patient until its budget is spent, so the patients with most to learn from have theirs.
    """
    ill = lesions[lesions[TARGET] == 1]
    worst = ill.groupby(PATIENT)["rank"].max().sort_values(ascending=False, kind="stable")
    of_patient = dict(iter(lesions[lesions[PATIENT].isin(worst.index)].groupby(PATIENT, sort=False)))
    rng = np.random.default_rng(seed)
    return [_patient(of_patient[name], gallery, rng) for name in worst.index]


def describe_patient(lesions: pd.DataFrame, gallery: TileGallery, keep: str, seed: int = 0) -> dict[str, Any]:
    """The entry of one patient, malignant lesion or not; lesion `keep` is drawn whatever its rank."""
    return _patient(lesions, gallery, np.random.default_rng(seed), keep)


def _patient(lesions: pd.DataFrame, gallery: TileGallery, rng: np.random.Generator, keep: str = "") -> dict[str, Any]:
    lesions = lesions.sort_values("rank", kind="stable")
    drawn = _thin(lesions, rng, keep)
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
        "lesions": [_brief(lesion) for _, lesion in listed.iterrows()],
    }


def _brief(lesion: pd.Series) -> dict[str, Any]:
    """What is the lesion's own; what it shares with the patient is said once, for some 4,000 of them share a page."""
    said = describe(lesion)
    return {name: said[name] for name in said if name not in ("patient", "hospital", "sex", "age", "tile_type")}


def _thin(lesions: pd.DataFrame, rng: np.random.Generator, keep: str) -> pd.DataFrame:
    if len(lesions) <= DRAWN:
        return lesions
    kept = (lesions["rank"] <= DRAWN // 4) | (lesions[TARGET] == 1) | (lesions[ID] == keep)
    chosen = kept.to_numpy(copy=True)
    rest = rng.choice(np.flatnonzero(~chosen), DRAWN - int(chosen.sum()), replace=False)
    chosen[rest] = True
    return lesions[chosen]


def _map(drawn: pd.DataFrame, lesions: pd.DataFrame) -> dict[str, list[Any]]:
    """Parallel lists, short keys: x, y as plotted, b 1 for the back, v log10 of `top`, d diameter, t target, r rank."""
    back = _back(drawn, float(lesions["z"].median()))
    # Facing a person, their left is on our right; seen from behind it is on our left. The file has left negative.
    x = np.where(back, drawn["x"], -drawn["x"])
    return {
        "x": _whole(x),
        "y": _whole(drawn["y"].to_numpy()),
        "b": [int(flag) for flag in back],
        "v": [round(float(value), 2) for value in np.log10(drawn["top"])],
        "d": [round(float(value), 1) if np.isfinite(value) else 2.0 for value in drawn["diameter"]],
        "t": [int(value) for value in drawn[TARGET]],
        "r": [int(value) for value in drawn["rank"]],
    }


def _back(lesions: pd.DataFrame, middle: float) -> np.ndarray:
    """Which lesions are drawn on the back: by body part where it says so, else by depth (back is positive z)."""
    place = lesions["site"]
    back, front = place.str.startswith("Torso Back"), place.str.startswith("Torso Front")
    return np.asarray(back | (~front & (lesions["z"] > middle)))


def _whole(values: np.ndarray) -> list[int | None]:
    return [round(float(value)) if np.isfinite(value) else None for value in values]
