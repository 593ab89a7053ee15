"""Failures: the malignant lesions ranked lowest and the benign ones ranked highest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from isic.report.lesions import TileGallery, lesion_values, similar_lesions, worst_lesions
from isic.report.shap_text import ShapGroup

#: isic_id -> {"title": …, "alt": …, "uri": data URI of a JPEG} per network.
Maps = Callable[[str], list[dict[str, str]]]
#: isic_id -> groups of signs that raised or lowered its score, the strongest first.
Reasons = Callable[[str], list[ShapGroup]]


def no_output(_: str) -> list[Any]:
    """No maps or reasons: for a run without images or without a stacker."""
    return []


def lesion_card(
    lesions: pd.DataFrame,
    position: int,
    gallery: TileGallery,
    maps: Maps = no_output,
    reasons: Reasons = no_output,
) -> dict[str, Any]:
    """Values, neighbours, maps and reasons of the lesion at `position` of the overview; its tiles
    go to `gallery`.
    """
    lesion = lesion_values(lesions.iloc[position])
    neighbours = similar_lesions(lesions, position)
    for isic_id in (lesion["id"], *(neighbour["lesion"]["id"] for neighbour in neighbours)):
        gallery.add(isic_id)
    return {
        "lesion": lesion,
        "neighbours": neighbours,
        "maps": maps(lesion["id"]),
        "reasons": reasons(lesion["id"]),
    }


def failure_cards(
    lesions: pd.DataFrame,
    gallery: TileGallery,
    count: int,
    maps: Maps = no_output,
    reasons: Reasons = no_output,
) -> dict[str, list[dict[str, Any]]]:
    """Cards of the `count` worst misses and worst false alarms."""
    return {
        name: [
            lesion_card(lesions, index, gallery, maps, reasons)
            for index in worst_lesions(lesions, target, count)
        ]
        for name, target in (("misses", 1), ("alarms", 0))
    }
