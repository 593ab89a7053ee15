"""Figures over versions: out of fold against the leaderboard, and pAUC against cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from isic.evaluate.curves import Records
from isic.evaluate.theme import PAPER, Theme, canvas, legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Key of a cost in the records of the frontier -> label of its axis.
COSTS = {
    "parameters": "parameters",
    "gflops": "GFLOPs a lesion",
    "milliseconds": "ms a lesion",
    "megabytes": "MB",
}


def draw_leaderboard(points: dict[str, Records], theme: Theme = PAPER) -> Figure | None:
    """Leaderboard scores of each submission against its out-of-fold pAUC with interval."""
    records = [
        record
        for record in points.get("leaderboard", [])
        if record["public"] is not None or record["private"] is not None
    ]
    if not records:
        return None

    figure, axes = canvas(theme, 4.8, 4.0)
    scores = []
    for name, role, marker in (("public", "blue", "o"), ("private", "red", "s")):
        shown = [record for record in records if record[name] is not None]
        for index, record in enumerate(shown):
            low, high = record["pauc_low"], record["pauc_high"]
            spread = None if low is None else [[record["pauc"] - low], [high - record["pauc"]]]
            axes.errorbar(
                record["pauc"],
                record[name],
                xerr=spread,
                fmt=marker,
                color=theme[role],
                markersize=6,
                elinewidth=1.2,
                label=name if index == 0 else None,
            )
            scores += [record["pauc"], record[name]]

    limits = (max(0.0, min(scores) - 0.02), min(0.2, max(scores) + 0.02))
    axes.plot(limits, limits, color=theme["muted"], linewidth=1, linestyle="--", label="equal")
    axes.set(xlabel="pAUC out of fold (95 % over patients)", ylabel="pAUC on the leaderboard")
    legend(axes, theme, loc="best")
    return figure


def draw_frontier(points: dict[str, Records], theme: Theme = PAPER) -> Figure | None:
    """pAUC of versions and fold networks against each cost; the line joins those that none beats in
    both.
    """
    records = [record for record in points.get("frontier", []) if record["pauc"] is not None]
    if not records:
        return None

    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    from isic.evaluate.theme import style_axes

    figure = Figure(figsize=(4.8, 4.0), layout="constrained")
    figure.patch.set_alpha(0 if theme.page else 1)
    panels = figure.subplots(2, 2, sharey=True).ravel()
    for panel, (cost, label) in zip(panels, COSTS.items(), strict=True):
        style_axes(panel, theme)
        for kind, role, marker in (("network", "blue", "o"), ("version", "red", "s")):
            shown = [record for record in records if record["kind"] == kind and record[cost]]
            panel.scatter(
                [record[cost] for record in shown],
                [record["pauc"] for record in shown],
                color=theme[role],
                marker=marker,
                s=26,
                label=kind,
            )
        best = frontier([record for record in records if record[cost]], cost)
        panel.plot(
            [record[cost] for record in best],
            [record["pauc"] for record in best],
            color=theme["muted"],
            linewidth=1,
        )
        panel.set(xscale="log", xlabel=label)
        # Costs often span less than a decade, where powers of ten alone would leave no label.
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=5))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        panel.tick_params(axis="x", labelsize="x-small")
    legend(panels[0], theme, loc="best")
    figure.supylabel("pAUC out of fold", color=theme["ink"], fontsize="small")
    return figure


def _short(value: float) -> str:
    """1200000 -> 1.2M, 30000 -> 30k."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def frontier(records: Records, cost: str) -> Records:
    """The records that no other beats in both pAUC and `cost`, cheapest first."""
    best: Records = []
    for record in sorted(records, key=lambda item: (item[cost], -item["pauc"])):
        if not best or record["pauc"] > best[-1]["pauc"]:
            best.append(record)
    return best
