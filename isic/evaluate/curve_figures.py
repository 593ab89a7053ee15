"""Figures of curves: ROC, sensitivity by lesions flagged, calibration, net benefit, scores and
learning curves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from isic.core.metric import MIN_SENSITIVITY
from isic.evaluate.curves import Records, column_of, group_by
from isic.evaluate.learning import expected_band
from isic.evaluate.theme import PAPER, Theme, canvas, legend, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_roc(points: dict[str, Records], theme: Theme = PAPER) -> Figure | None:
    """Pooled ROC curve over thin fold curves. The shaded area above 80 % sensitivity: the pAUC."""
    if not points["roc"]:
        return None

    figure, axes = canvas(theme, 5.2, 5.0)
    for records in group_by(points["roc_folds"], "fold").values():
        axes.plot(
            column_of(records, "fpr"),
            column_of(records, "tpr"),
            color=theme["muted"],
            linewidth=0.8,
            alpha=0.7,
        )

    fpr, tpr = column_of(points["roc"], "fpr"), column_of(points["roc"], "tpr")
    axes.fill_between(
        fpr,
        MIN_SENSITIVITY,
        np.maximum(tpr, MIN_SENSITIVITY),
        color=theme["blue"],
        alpha=0.25,
        linewidth=0,
    )
    axes.plot(fpr, tpr, color=theme["blue"], linewidth=2, label="all folds pooled")

    axes.plot([], [], color=theme["muted"], linewidth=0.8, label="each fold")
    axes.axhline(
        MIN_SENSITIVITY, color=theme["red"], linewidth=1, linestyle="--", label="80 % sensitivity"
    )
    axes.set(
        xlabel="benign lesions flagged (share)",
        ylabel="malignant lesions found (share)",
        xlim=(0, 1),
        ylim=(0, 1.01),
    )
    legend(axes, theme, loc="lower right")

    return figure


def draw_roc_folds(points: dict[str, Records], theme: Theme = PAPER) -> Figure | None:
    """A small panel per fold with its pAUC as shaded area and number; the pooled curve is grey."""
    from matplotlib.figure import Figure

    folds = group_by(points["roc_folds"], "fold")
    if len(folds) < 2:
        return None

    across = min(len(folds), 5)
    down = -(-len(folds) // across)
    figure = Figure(figsize=(1.9 * across, 2.05 * down), layout="constrained")
    figure.patch.set_alpha(0.0 if theme.page else 1.0)

    pooled = points["roc"]
    for index, (fold, records) in enumerate(folds.items()):
        axes = style_axes(figure.add_subplot(down, across, index + 1), theme)
        fpr, tpr = column_of(records, "fpr"), column_of(records, "tpr")
        axes.plot(
            column_of(pooled, "fpr"),
            column_of(pooled, "tpr"),
            color=theme["muted"],
            linewidth=0.8,
            alpha=0.7,
        )
        axes.fill_between(
            fpr,
            MIN_SENSITIVITY,
            np.maximum(tpr, MIN_SENSITIVITY),
            color=theme["blue"],
            alpha=0.25,
            linewidth=0,
        )
        axes.plot(fpr, tpr, color=theme["blue"], linewidth=1.6)
        axes.axhline(MIN_SENSITIVITY, color=theme["red"], linewidth=0.8, linestyle="--")

        axes.text(
            0.97, 0.06, f"{area_above(fpr, tpr):.3f}", ha="right", fontsize=13, color=theme["ink"]
        )
        axes.set_title(f"fold {fold}", fontsize=10, color=theme["ink"], loc="left")
        axes.set(xlim=(0, 1), ylim=(0, 1.01), xticks=(0, 0.5, 1), yticks=(0, 0.8, 1))
        axes.tick_params(labelsize=8)
        if index % across:
            axes.set_yticklabels([])

    return figure


def area_above(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Area between a ROC curve and 80 % sensitivity by trapezoids; the pAUC if no corner was left
    out.
    """
    last = int(np.flatnonzero(tpr <= MIN_SENSITIVITY)[-1])
    if last == len(tpr) - 1:
        return 0.0

    part = (MIN_SENSITIVITY - tpr[last]) / (tpr[last + 1] - tpr[last])
    x = np.append(fpr[last] + part * (fpr[last + 1] - fpr[last]), fpr[last + 1 :])
    return float(np.trapezoid(np.append(MIN_SENSITIVITY, tpr[last + 1 :]) - MIN_SENSITIVITY, x))


def draw_flagged(points: dict[str, Records], theme: Theme = PAPER) -> Figure | None:
    """Sensitivity by the number of lesions flagged per patient."""
    records = points["flagged"]
    if not records:
        return None

    figure, axes = canvas(theme)
    flagged = column_of(records, "flagged")
    for column, label, colour, width in (
        ("sensitivity", "mean over patients", "blue", 2),
        ("pooled", "over all malignant lesions", "red", 1.2),
    ):
        share = column_of(records, column)
        axes.plot(flagged, share, color=theme[colour], linewidth=width, label=label)

    axes.axvline(
        15, color=theme["muted"], linewidth=1, linestyle="--", label="15, the official count"
    )
    axes.set(
        xlabel="lesions flagged per patient",
        ylabel="malignant lesions found (share)",
        xscale="log",
        ylim=(0, 1.01),
    )
    _plain_log(axes.xaxis)
    legend(axes, theme, loc="lower right")

    return figure


def draw_calibration(points: dict[str, Records], theme: Theme = PAPER) -> Figure | None:
    """Observed against predicted share on log axes. A bin without a malignant lesion shows the
    upper end of its interval.
    """
    if not points["calibration"]:
        return None

    figure, axes = canvas(theme)
    lowest = 1.0
    for index, (kind, records) in enumerate(group_by(points["calibration"], "kind").items()):
        filled = [record for record in records if record["positives"]]
        empty = [record for record in records if not record["positives"]]
        x, y = column_of(filled, "predicted"), column_of(filled, "observed")
        spread = np.abs(np.array([column_of(filled, "low"), column_of(filled, "high")]) - y)

        colour = theme.cycle(1 - index if index < 2 else index)
        axes.errorbar(
            x,
            y,
            yerr=spread,
            color=colour,
            fmt="o-",
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
            label=kind,
        )
        axes.plot(
            column_of(empty, "predicted"),
            column_of(empty, "high"),
            "v",
            color=colour,
            markersize=5,
            fillstyle="none",
        )
        lowest = min([lowest, *x, *column_of(filled, "low")])

    lowest = max(lowest, 1e-6)
    axes.plot(
        [lowest, 1], [lowest, 1], color=theme["muted"], linewidth=1, linestyle="--", label="perfect"
    )
    axes.set(
        xlabel="predicted probability", ylabel="share found malignant", xscale="log", yscale="log"
    )
    legend(axes, theme, loc="upper left")

    return figure


def draw_decision(points: dict[str, Records], theme: Theme = PAPER) -> Figure | None:
    """Net benefit per 1,000 lesions of acting on the model, on every lesion and on none."""
    records = points["decision"]
    if not records:
        return None

    figure, axes = canvas(theme)
    x = column_of(records, "threshold")
    for name, colour, label in (
        ("model", "blue", "the model"),
        ("all", "red", "every lesion"),
        ("none", "muted", "none"),
    ):
        axes.plot(
            x,
            1000 * column_of(records, name),
            color=theme[colour],
            linewidth=2 if name == "model" else 1.2,
            label=label,
        )

    best = 1000 * max(column_of(records, "all").max(), column_of(records, "model").max())
    axes.set(
        xlabel="threshold probability",
        ylabel="net benefit per 1,000 lesions",
        xscale="log",
        ylim=(-0.15 * best, 1.1 * best),
    )
    legend(axes, theme, loc="upper right", title=None)

    return figure


def draw_histogram(points: dict[str, Records], theme: Theme = PAPER) -> Figure | None:
    """Score distribution of both classes, counts on a log axis."""
    figure, axes = canvas(theme)
    lowest = min((record["low"] for record in points["histogram"]), default=0)

    for name, colour in (("benign", "blue"), ("malignant", "red")):
        records = [record for record in points["histogram"] if record["class"] == name]
        if not records:
            return None

        edges = np.append(column_of(records, "low"), records[-1]["high"])
        axes.stairs(
            column_of(records, "count"),
            edges,
            baseline=0.7,
            color=theme[colour],
            fill=True,
            alpha=0.3,
        )
        axes.stairs(
            column_of(records, "count"), edges, color=theme[colour], linewidth=1.4, label=name
        )

    axes.set(
        xlabel="score", ylabel="lesions", xscale="log" if lowest > 0 else "linear", yscale="log"
    )
    axes.set_ylim(bottom=0.7)
    legend(axes, theme, loc="upper right")

    return figure


def draw_learning(points: dict[str, Records], theme: Theme = PAPER) -> Figure | None:
    """Validation pAUC by epoch: a line per fold, a colour per backbone, and the published final
    range.
    """
    records = [record for record in points.get("learning", []) if record["name"].endswith("pauc")]
    if not records:
        return None

    figure, axes = canvas(theme)
    last = max(record["epoch"] for record in records)
    for index, (backbone, histories) in enumerate(group_by(records, "backbone").items()):
        colour = theme.cycle(index)
        for i, history in enumerate(group_by(histories, "fold").values()):
            axes.plot(
                column_of(history, "epoch"),
                column_of(history, "value"),
                "o-",
                color=colour,
                markersize=3,
                linewidth=1.2,
                alpha=0.8,
                label=backbone if i == 0 else None,
            )

        band = expected_band(str(histories[0].get("model", "")))
        if band:
            axes.fill_between(
                [last, last * 1.04 + 0.1],
                band[0],
                band[1],
                color=colour,
                alpha=0.3,
                linewidth=0,
                label=f"{backbone}, published",
            )

    axes.axhline(0.02, color=theme["muted"], linewidth=1, linestyle=":", label="chance")
    axes.set(xlabel="epoch", ylabel="pAUC on the held-out fold", ylim=(0, 0.2))
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend(axes, theme, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)

    return figure


def _plain_log(axis: Any) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    axis.set_major_locator(FixedLocator([1, 2, 5, 10, 15, 30, 60, 100, 200]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(ScalarFormatter())
