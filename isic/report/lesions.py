"""Lesions on the pages: tiles, ranks, values and nearest neighbours."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from isic.core.errors import InputError
from isic.core.schema import ID, PATIENT, TARGET
from isic.data.tiles import TileStore, decode
from isic.evaluate.curves import rank_in_patient
from isic.evaluate.results import RunResults
from isic.evaluate.slices import diagnosis_group

COORDINATES = ["tbp_lv_x", "tbp_lv_y", "tbp_lv_z"]


@dataclass
class TileGallery:
    """Tiles as data URIs within a budget of bytes, each stored once; tiles over the budget are
    counted.

    The JPEG bytes are the original ones, as for the network.
    """

    tiles: TileStore | None
    budget: int
    shown: dict[str, str] = field(default_factory=dict)
    over_budget: int = 0
    broken: list[str] = field(default_factory=list)
    spent: int = 0

    def add(self, isic_id: str) -> bool:
        """Add a tile; False without images, for a missing or broken tile, or when the budget is
        spent.
        """
        if self.tiles is None:
            return False
        if isic_id in self.shown:
            return True
        try:
            jpeg = self.tiles.jpeg(isic_id)
            decode(jpeg, isic_id)
        except InputError:
            self.broken.append(isic_id)
            return False
        uri = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        if self.spent + len(uri) > self.budget:
            self.over_budget += 1
            return False
        self.spent += len(uri)
        self.shown[isic_id] = uri
        return True


def overview(results: RunResults) -> pd.DataFrame:
    """Values shown for each lesion, in row order.

    `top`: share of all lesions with at least this score. `rank`: rank among the patient's `of`
    lesions, 1 for the highest score.
    """
    rows, oof = results.rows, results.oof
    return pd.DataFrame(
        {
            ID: oof[ID],
            PATIENT: oof[PATIENT],
            TARGET: oof[TARGET],
            "fold": oof["fold"],
            "score": results.score,
            "top": oof["score"].rank(ascending=False, method="max").to_numpy() / len(oof),
            "rank": rank_in_patient(results.patient, results.score),
            "of": oof.groupby(PATIENT)[ID].transform("size").to_numpy(),
            "diameter": rows["clin_size_long_diam_mm"],
            "site": rows["tbp_lv_location"].fillna("unknown site"),
            "hospital": rows["attribution"].fillna("unknown hospital"),
            "age": rows["age_approx"],
            "sex": rows["sex"].fillna("sex missing"),
            "tile_type": rows["tbp_tile_type"].fillna("unknown lighting"),
            "diagnosis": _diagnosis(rows),
            **{name[-1]: rows[name].to_numpy() for name in COORDINATES},
        }
    )


def _diagnosis(rows: pd.DataFrame) -> pd.Series:
    """The most specific diagnosis for malignant lesions, benign or indeterminate for the others."""
    text = rows["iddx_full"].str.split("::").str[-1]
    diagnosis = np.where(
        rows[TARGET] == 1,
        text.fillna(diagnosis_group(rows)).fillna("malignant"),
        rows["iddx_1"].fillna("benign"),
    )
    return pd.Series(diagnosis, index=rows.index).str.lower()


def similar_lesions(lesions: pd.DataFrame, position: int, count: int = 3) -> list[dict[str, Any]]:
    """The `count` lesions of the same patient nearest on the body, with the distance in the unit of
    the coordinates.
    """
    lesion = lesions.iloc[position]
    others = lesions[(lesions[PATIENT] == lesion[PATIENT]) & (lesions[ID] != lesion[ID])]
    distance = np.sqrt(sum((others[axis] - lesion[axis]) ** 2 for axis in ("x", "y", "z")))
    order = np.argsort(distance.to_numpy(), kind="stable")[:count]
    return [
        {"lesion": lesion_values(others.iloc[i]), "distance": _round(distance.iloc[i])}
        for i in order
        if np.isfinite(distance.iloc[i])
    ]


def lesion_values(lesion: pd.Series) -> dict[str, Any]:
    """One row of `overview` as JSON-able values; missing numbers become None."""
    return {
        "id": lesion[ID],
        "patient": lesion[PATIENT],
        "target": int(lesion[TARGET]),
        "fold": int(lesion["fold"]),
        "score": float(f"{lesion['score']:.4g}"),
        "top": float(f"{lesion['top']:.3g}"),
        "rank": int(lesion["rank"]),
        "of": int(lesion["of"]),
        "diameter": _round(lesion["diameter"]),
        "age": None if pd.isna(lesion["age"]) else int(lesion["age"]),
        **{
            name: str(lesion[name])
            for name in ("site", "hospital", "sex", "tile_type", "diagnosis")
        },
    }


def _round(value: float) -> float | None:
    return None if pd.isna(value) else round(float(value), 1)


def find_lesion(lesions: pd.DataFrame, isic_id: str) -> int:
    """Row of `isic_id` in the overview, or -1."""
    return int(pd.Index(lesions[ID]).get_indexer(pd.Index([isic_id]))[0])


def worst_lesions(lesions: pd.DataFrame, target: int, count: int) -> Sequence[int]:
    """Positions of the lowest-scored malignant (target 1) or highest-scored benign (target 0)
    lesions.
    """
    scores = lesions["score"].to_numpy()
    members = np.flatnonzero(lesions[TARGET].to_numpy() == target)
    order = np.argsort(scores[members] if target else -scores[members], kind="stable")
    return [int(position) for position in members[order][:count]]
