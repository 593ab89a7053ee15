"""All figures by name, drawn from points by matplotlib for the page and for MLflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isic.core.io import atomic_file
from isic.evaluate.curve_figures import (
    draw_calibration,
    draw_decision,
    draw_flagged,
    draw_histogram,
    draw_learning,
    draw_roc,
    draw_roc_folds,
)
from isic.evaluate.curves import Records
from isic.evaluate.interval_figures import draw_families, draw_ladder, draw_slices
from isic.evaluate.model_figures import draw_frontier, draw_leaderboard
from isic.evaluate.theme import Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Name -> function of (points, theme) in the order of the page; None where the points are missing.
FIGURES: dict[str, Callable[[dict[str, Records], Theme], Any]] = {
    "ladder": draw_ladder,
    "roc": draw_roc,
    "roc_folds": draw_roc_folds,
    "flagged": draw_flagged,
    "calibration": draw_calibration,
    "decision": draw_decision,
    "histogram": draw_histogram,
    "families": draw_families,
    "leaderboard": draw_leaderboard,
    "frontier": draw_frontier,
    "learning": draw_learning,
    "slices": draw_slices,
}


def save_figure(figure: Figure | None, path: Path) -> None:
    """Write a figure as SVG, atomically; nothing for None."""
    if figure is not None:
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})
