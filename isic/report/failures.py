"""Where the model fails: the malignant lesions it ranks lowest and the benign ones it ranks highest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from isic.core.schema import ID
from isic.report.lesions import TileGallery, describe, nearest, worst

#: For one isic_id: {"title": …, "uri": PNG or JPEG data URI} per network, and sentences on what moved the score.
Maps = Callable[[str], list[dict[str, str]]]
Reasons = Callable[[str], list[dict[str, Any]]]


def nothing(_: str) -> list[dict[str, Any]]:
    """No maps, no reasons: a run without images or a stacker that cannot explain itself."""
    return []


def card(
    lesions: pd.DataFrame, position: int, gallery: TileGallery, maps: Maps = nothing, reasons: Reasons = nothing
) -> dict[str, Any]:
    """All there is to say about the lesion at `position` of the overview."""
    lesion = describe(lesions.iloc[position])
    neighbours = nearest(lesions, position)
    for isic_id in (lesion["id"], *(neighbour["lesion"]["id"] for neighbour in neighbours)):
        gallery.add(isic_id)
    return {"lesion": lesion, "neighbours": neighbours, "maps": maps(lesion["id"]), "reasons": reasons(lesion["id"])}


def failures(
    lesions: pd.DataFrame, gallery: TileGallery, count: int, maps: Maps = nothing, reasons: Reasons = nothing
) -> dict[str, list[dict[str, Any]]]:
    """Cards of the `count` worst misses and worst false alarms."""
    return {
        name: [card(lesions, position, gallery, maps, reasons) for position in worst(lesions, target, count)]
        for name, target in (("misses", 1), ("alarms", 0))
    }


def position_of(lesions: pd.DataFrame, isic_id: str) -> int:
    """Row of `isic_id` in the overview, or -1."""
    return int(pd.Index(lesions[ID]).get_indexer(pd.Index([isic_id]))[0])
