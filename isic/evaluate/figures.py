"""Pictures from points, by matplotlib: the same functions draw for the page and for MLflow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from isic.core.io import atomic_file
from isic.core.metric import MIN_SENSITIVITY
from isic.evaluate.curves import Records
from isic.evaluate.theme import PAPER, Theme, bare, canvas, legend, lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Points = dict[str, Records]


def column(records: Records, name: str) -> np.ndarray:
    return np.array([record[name] for record in records], dtype=np.float64)


def groups(records: Records, name: str) -> dict[Any, Records]:
    """Records by the value of `name`, in order of first appearance."""
    found: dict[Any, Records] = {}
    for record in records:
        found.setdefault(record[name], []).append(record)
    return found


def roc(points: Points, theme: Theme = PAPER) -> Figure | None:
    """Pooled curve over thin fold curves; the area that counts, above 80 % sensitivity, is shaded."""
    if not points["roc"]:
        return None
    figure, axes = canvas(theme, 5.2, 5.0)
    for records in groups(points["roc_folds"], "fold").values():
        axes.plot(column(records, "fpr"), column(records, "tpr"), color=theme["muted"], linewidth=0.8, alpha=0.7)
    fpr, tpr = column(points["roc"], "fpr"), column(points["roc"], "tpr")
    axes.fill_between(
        fpr, MIN_SENSITIVITY, np.maximum(tpr, MIN_SENSITIVITY), color=theme["blue"], alpha=0.25, linewidth=0
    )
    axes.plot(fpr, tpr, color=theme["blue"], linewidth=2, label="all folds pooled")
    axes.plot([], [], color=theme["muted"], linewidth=0.8, label="each fold")
    axes.axhline(MIN_SENSITIVITY, color=theme["red"], linewidth=1, linestyle="--", label="80 % sensitivity")
    axes.set(
        xlabel="benign lesions flagged (share)", ylabel="malignant lesions found (share)", xlim=(0, 1), ylim=(0, 1.01)
    )
    legend(axes, theme, loc="lower right")
    return figure


def roc_folds(points: Points, theme: Theme = PAPER) -> Figure | None:
    """A small panel per fold with its own shaded area, printed; the pooled curve lies behind in grey."""
    from matplotlib.figure import Figure

    folds = groups(points["roc_folds"], "fold")
    if len(folds) < 2:
        return None
    across = min(len(folds), 5)
    down = -(-len(folds) // across)
    figure = Figure(figsize=(1.9 * across, 2.05 * down), layout="constrained")
    figure.patch.set_alpha(0.0 if theme.page else 1.0)
    pooled = points["roc"]
    for place, (fold, records) in enumerate(folds.items()):
        axes = bare(figure.add_subplot(down, across, place + 1), theme)
        fpr, tpr = column(records, "fpr"), column(records, "tpr")
        axes.plot(column(pooled, "fpr"), column(pooled, "tpr"), color=theme["muted"], linewidth=0.8, alpha=0.7)
        axes.fill_between(
            fpr, MIN_SENSITIVITY, np.maximum(tpr, MIN_SENSITIVITY), color=theme["blue"], alpha=0.25, linewidth=0
        )
        axes.plot(fpr, tpr, color=theme["blue"], linewidth=1.6)
        axes.axhline(MIN_SENSITIVITY, color=theme["red"], linewidth=0.8, linestyle="--")
        axes.text(0.97, 0.06, f"{area(fpr, tpr):.3f}", ha="right", fontsize=13, color=theme["ink"])
        axes.set_title(f"fold {fold}", fontsize=10, color=theme["ink"], loc="left")
        axes.set(xlim=(0, 1), ylim=(0, 1.01), xticks=(0, 0.5, 1), yticks=(0, 0.8, 1))
        axes.tick_params(labelsize=8)
        if place % across:
            axes.set_yticklabels([])
    return figure


def area(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Area between a curve of corners and 80 % sensitivity, by trapezoids; that of all corners is the pAUC."""
    last = int(np.flatnonzero(tpr <= MIN_SENSITIVITY)[-1])
    if last == len(tpr) - 1:
        return 0.0
    part = (MIN_SENSITIVITY - tpr[last]) / (tpr[last + 1] - tpr[last])
    x = np.append(fpr[last] + part * (fpr[last + 1] - fpr[last]), fpr[last + 1 :])
    return float(np.trapezoid(np.append(MIN_SENSITIVITY, tpr[last + 1 :]) - MIN_SENSITIVITY, x))


def flagged(points: Points, theme: Theme = PAPER) -> Figure | None:
    """Sensitivity against the number of lesions a reader looks at per patient."""
    records = points["flagged"]
    if not records:
        return None
    figure, axes = canvas(theme)
    axes.plot(
        column(records, "flagged"),
        column(records, "sensitivity"),
        color=theme["blue"],
        linewidth=2,
        label="mean over patients",
    )
    axes.plot(
        column(records, "flagged"),
        column(records, "pooled"),
        color=theme["red"],
        linewidth=1.2,
        label="over all malignant lesions",
    )
    axes.axvline(15, color=theme["muted"], linewidth=1, linestyle="--", label="15, the official count")
    axes.set(
        xlabel="lesions flagged per patient", ylabel="malignant lesions found (share)", xscale="log", ylim=(0, 1.01)
    )
    _plain_log(axes.xaxis)
    legend(axes, theme, loc="lower right")
    return figure


def calibration(points: Points, theme: Theme = PAPER) -> Figure | None:
    """Found against predicted on log axes; bins without a malignant lesion show the top of their interval only."""
    if not points["calibration"]:
        return None
    figure, axes = canvas(theme)
    lowest = 1.0
    for number, (kind, records) in enumerate(groups(points["calibration"], "kind").items()):
        found = [record for record in records if record["positives"]]
        empty = [record for record in records if not record["positives"]]
        x, y = column(found, "predicted"), column(found, "observed")
        spread = np.abs(np.array([column(found, "low"), column(found, "high")]) - y)
        colour = theme.cycle(1 - number if number < 2 else number)
        axes.errorbar(
            x, y, yerr=spread, color=colour, fmt="o-", markersize=4, linewidth=1.2, elinewidth=0.8, label=kind
        )
        axes.plot(column(empty, "predicted"), column(empty, "high"), "v", color=colour, markersize=5, fillstyle="none")
        lowest = min([lowest, *x, *column(found, "low")])
    lowest = max(lowest, 1e-6)
    axes.plot([lowest, 1], [lowest, 1], color=theme["muted"], linewidth=1, linestyle="--", label="perfect")
    axes.set(xlabel="predicted probability", ylabel="share found malignant", xscale="log", yscale="log")
    legend(axes, theme, loc="upper left")
    return figure


def decision(points: Points, theme: Theme = PAPER) -> Figure | None:
    """Net benefit per 1,000 lesions of acting on the model, on everything, on nothing."""
    records = points["decision"]
    if not records:
        return None
    figure, axes = canvas(theme)
    x = column(records, "threshold")
    for name, colour, label in (
        ("model", "blue", "the model"),
        ("all", "red", "every lesion"),
        ("none", "muted", "none"),
    ):
        axes.plot(
            x, 1000 * column(records, name), color=theme[colour], linewidth=2 if name == "model" else 1.2, label=label
        )
    best = 1000 * max(column(records, "all").max(), column(records, "model").max())
    axes.set(
        xlabel="probability above which one acts",
        ylabel="net benefit per 1,000 lesions",
        xscale="log",
        ylim=(-0.15 * best, 1.1 * best),
    )
    legend(axes, theme, loc="upper right", title=None)
    return figure


def histogram(points: Points, theme: Theme = PAPER) -> Figure | None:
    """Score distribution of both classes, counts on a log axis."""
    figure, axes = canvas(theme)
    lowest = min((record["low"] for record in points["histogram"]), default=0)
    for name, colour in (("benign", "blue"), ("malignant", "red")):
        records = [record for record in points["histogram"] if record["class"] == name]
        if not records:
            return None
        edges = np.append(column(records, "low"), records[-1]["high"])
        axes.stairs(column(records, "count"), edges, baseline=0.7, color=theme[colour], fill=True, alpha=0.3)
        axes.stairs(column(records, "count"), edges, color=theme[colour], linewidth=1.4, label=name)
    axes.set(xlabel="score", ylabel="lesions", xscale="log" if lowest > 0 else "linear", yscale="log")
    axes.set_ylim(bottom=0.7)
    legend(axes, theme, loc="upper right")
    return figure


def slices(points: Points, theme: Theme = PAPER) -> Figure | None:
    """pAUC of every slice that has enough malignant lesions, with its interval, against the whole."""
    records = [record for record in points["slices"] if record["pauc"] is not None]
    if not records:
        return None
    figure, axes = canvas(theme, 6.4, 0.9 + 0.26 * len(records))
    y = np.arange(len(records))[::-1]
    x = column(records, "pauc")
    spread = np.maximum(0, np.array([x - column(records, "low"), column(records, "high") - x]))
    axes.errorbar(x, y, xerr=spread, fmt="o", color=theme["blue"], markersize=5, elinewidth=1.4)
    whole = points["ladder"][-1]["pauc"]
    axes.axvline(whole, color=theme["red"], linewidth=1, linestyle="--", label="all lesions")
    lines(axes, y, [f"{shorten(record['slice'])} ({record['positives']})" for record in records])
    axes.set(xlabel="pAUC (malignant lesions in brackets)", xlim=(0, 0.2))
    legend(axes, theme, loc="lower left")
    return figure


def ladder(points: Points, theme: Theme = PAPER) -> Figure | None:
    """pAUC of each step with its interval."""
    records = points["ladder"]
    figure, axes = canvas(theme, 6.4, 0.9 + 0.34 * len(records))
    y = np.arange(len(records))[::-1]
    x = column(records, "pauc")
    spread = np.maximum(0, np.array([x - column(records, "low"), column(records, "high") - x]))
    colours = [theme["blue"]] * (len(records) - 1) + [theme["red"]]
    for i, colour in enumerate(colours):
        axes.errorbar(x[i], y[i], xerr=spread[:, i : i + 1], fmt="o", color=colour, markersize=6, elinewidth=1.6)
    axes.axvline(0.02, color=theme["muted"], linewidth=1, linestyle=":", label="chance")
    lines(axes, y, [record["step"] for record in records])
    axes.set(xlabel="pAUC", xlim=(0, 0.2), ylim=(-0.6, len(records) - 0.4))
    legend(axes, theme, loc="upper right")
    return figure


def learning(points: Points, theme: Theme = PAPER) -> Figure | None:
    """Validation pAUC over epochs, a line per fold, a panel colour per backbone, with the published end range."""
    from isic.evaluate.learning import expected_band

    records = [record for record in points.get("learning", []) if record["name"].endswith("pauc")]
    if not records:
        return None
    figure, axes = canvas(theme)
    last = max(record["epoch"] for record in records)
    for number, (backbone, mine) in enumerate(groups(records, "backbone").items()):
        colour = theme.cycle(number)
        for i, line in enumerate(groups(mine, "fold").values()):
            axes.plot(
                column(line, "epoch"),
                column(line, "value"),
                "o-",
                color=colour,
                markersize=3,
                linewidth=1.2,
                alpha=0.8,
                label=backbone if i == 0 else None,
            )
        band = expected_band(backbone, str(mine[0].get("model", "")))
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


def families(points: Points, theme: Theme = PAPER) -> Figure | None:
    """What each feature family gains: added to the base, left out of the set in use, put into it."""
    records = points.get("families", [])
    if not records:
        return None
    names = list(dict.fromkeys(record["family"] for record in records))
    figure, axes = canvas(theme, 7.2, 1.1 + 0.26 * len(names))
    ways = {"added": "added to raw columns", "left_out": "left out of the set in use", "put_in": "put into it"}
    for number, (way, label) in enumerate(ways.items()):
        mine = [record for record in records if record["way"] == way]
        if mine:
            x = column(mine, "gain")
            y = np.array([len(names) - 1 - names.index(record["family"]) for record in mine]) + 0.22 * (1 - number)
            spread = np.maximum(0, np.array([x - column(mine, "low"), column(mine, "high") - x]))
            colour = theme.cycle(number)
            axes.errorbar(x, y, xerr=spread, fmt="o", color=colour, markersize=4, elinewidth=1.2, label=label)
    axes.axvline(0, color=theme["muted"], linewidth=1)
    lines(axes, np.arange(len(names))[::-1], names)
    axes.set(xlabel="gain of pAUC, 95 % over patients", ylim=(-0.6, len(names) - 0.4))
    legend(axes, theme, loc="best")
    return figure


def save(figure: Figure | None, path: Path) -> None:
    """Write a figure as SVG, whole or not at all; nothing for None."""
    if figure is not None:
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None})


def shorten(name: str, most: int = 34) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _plain_log(axis: Any) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    axis.set_major_locator(FixedLocator([1, 2, 5, 10, 15, 30, 60, 100, 200]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(ScalarFormatter())


#: Name -> drawing; the order is the page's.
FIGURES: dict[str, Callable[[Points, Theme], Any]] = {
    "ladder": ladder,
    "roc": roc,
    "roc_folds": roc_folds,
    "flagged": flagged,
    "calibration": calibration,
    "decision": decision,
    "histogram": histogram,
    "families": families,
    "learning": learning,
    "slices": slices,
}
