"""Figures of values with intervals, one row each: ladder, slices and feature families."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from isic.evaluate.curves import Records, column_of
from isic.evaluate.theme import PAPER, Theme, canvas, label_rows, legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_ladder(points: dict[str, Records], theme: Theme = PAPER) -> Figure | None:
    """pAUC of each step with its interval."""
    records = points["ladder"]
    figure, axes = canvas(theme, 6.4, 0.9 + 0.34 * len(records))
    y = np.arange(len(records))[::-1]
    x, spread = _intervals(records, "pauc")
    colours = [theme["blue"]] * (len(records) - 1) + [theme["red"]]
    for i, colour in enumerate(colours):
        axes.errorbar(
            x[i],
            y[i],
            xerr=spread[:, i : i + 1],
            fmt="o",
            color=colour,
            markersize=6,
            elinewidth=1.6,
        )

    axes.axvline(0.02, color=theme["muted"], linewidth=1, linestyle=":", label="chance")
    label_rows(axes, y, [record["step"] for record in records])
    axes.set(xlabel="pAUC", xlim=(0, 0.2), ylim=(-0.6, len(records) - 0.4))
    legend(axes, theme, loc="upper right")

    return figure


def draw_slices(points: dict[str, Records], theme: Theme = PAPER) -> Figure | None:
    """pAUC with interval of every slice with enough malignant lesions; the line is all lesions."""
    records = [record for record in points["slices"] if record["pauc"] is not None]
    if not records:
        return None

    figure, axes = canvas(theme, 6.4, 0.9 + 0.26 * len(records))
    y = np.arange(len(records))[::-1]
    x, spread = _intervals(records, "pauc")
    axes.errorbar(x, y, xerr=spread, fmt="o", color=theme["blue"], markersize=5, elinewidth=1.4)
    axes.axvline(
        points["ladder"][-1]["pauc"],
        color=theme["red"],
        linewidth=1,
        linestyle="--",
        label="all lesions",
    )

    label_rows(
        axes, y, [f"{_shorten(record['slice'])} ({record['positives']})" for record in records]
    )
    axes.set(xlabel="pAUC (malignant lesions in brackets)", xlim=(0, 0.2))
    legend(axes, theme, loc="lower left")

    return figure


def draw_families(points: dict[str, Records], theme: Theme = PAPER) -> Figure | None:
    """pAUC gain of each feature family in each way of `isic.evaluate.ablation`."""
    records = points.get("families", [])
    if not records:
        return None

    names = list(dict.fromkeys(record["family"] for record in records))
    figure, axes = canvas(theme, 7.2, 1.1 + 0.26 * len(names))

    ways = {
        "added": "added to raw columns",
        "left_out": "left out of the set in use",
        "put_in": "put into it",
    }
    for index, (way, label) in enumerate(ways.items()):
        gains = [record for record in records if record["way"] == way]
        if gains:
            x, spread = _intervals(gains, "gain")
            y = np.array(
                [len(names) - 1 - names.index(record["family"]) for record in gains]
            ) + 0.22 * (1 - index)
            colour = theme.cycle(index)
            axes.errorbar(
                x, y, xerr=spread, fmt="o", color=colour, markersize=4, elinewidth=1.2, label=label
            )

    axes.axvline(0, color=theme["muted"], linewidth=1)
    label_rows(axes, np.arange(len(names))[::-1], names)
    axes.set(xlabel="gain of pAUC, 95 % over patients", ylim=(-0.6, len(names) - 0.4))
    legend(axes, theme, loc="best")

    return figure


def _intervals(records: Records, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values (n,) and distances (2, n) to their `low` and `high`."""
    x = column_of(records, name)
    return x, np.maximum(
        0, np.array([x - column_of(records, "low"), column_of(records, "high") - x])
    )


def _shorten(name: str, length: int = 34) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
