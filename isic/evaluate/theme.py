"""Common style of all figures: real colours on paper and in MLflow, CSS variables in the page for
dark mode.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Role -> (colour on paper, stand-in written into the SVG and then replaced by the page's CSS
#: variable). Blue and vermilion are distinguishable with every common colour blindness (Wong,
#: Nature Methods 2011).
_ROLES = {
    "ink": ("#1b1f24", "#010101"),
    "muted": ("#5b6470", "#010102"),
    "grid": ("#d5dae0", "#010103"),
    "blue": ("#0b62a8", "#010104"),
    "red": ("#c23b16", "#010105"),
    "green": ("#0a7a5c", "#010106"),
    "gold": ("#9a6a00", "#010107"),
}
_CYCLE = ("blue", "red", "green", "gold", "muted", "ink")


@dataclass(frozen=True)
class Theme:
    """Colours by role, for a page (stand-ins) or for paper (real ones)."""

    page: bool

    def __getitem__(self, role: str) -> str:
        return _ROLES[role][1 if self.page else 0]

    def cycle(self, index: int) -> str:
        return self[_CYCLE[index % len(_CYCLE)]]


PAPER = Theme(page=False)
PAGE = Theme(page=True)


def canvas(theme: Theme, width: float = 4.8, height: float = 3.2) -> tuple[Figure, Any]:
    """An empty figure (inches) with one styled axes. No pyplot: it has global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0.0 if theme.page else 1.0)
    return figure, style_axes(figure.add_subplot(), theme)


def style_axes(axes: Any, theme: Theme) -> Any:
    """Style axes: two spines, a light grid behind the data, colours by role."""
    axes.patch.set_alpha(0.0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme["muted"])
    axes.tick_params(colors=theme["muted"], labelsize=10, which="both")
    axes.xaxis.label.set_color(theme["ink"])
    axes.yaxis.label.set_color(theme["ink"])
    axes.grid(color=theme["grid"], linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def legend(axes: Any, theme: Theme, **options: Any) -> None:
    """Add a frameless legend if anything is labelled; a `$` in a label is drawn literally."""
    if axes.get_legend_handles_labels()[0]:
        box = axes.legend(frameon=False, fontsize=10, labelcolor=theme["ink"], **options)
        for text in box.get_texts():
            text.set_parse_math(False)


def label_rows(axes: Any, y: np.ndarray, names: Sequence[str]) -> None:
    """Put a name on the vertical axis at each y. Metadata are free text, so a `$` is drawn
    literally.

    `text.parse_math` stays on for other texts: powers of ten on log axes need it.
    """
    axes.set_yticks(y, names, parse_math=False)


def to_svg(figure: Figure, name: str) -> str:
    """Inline SVG of a figure drawn with PAGE. Text stays text, colours become CSS variables, ids
    differ by `name`.
    """
    import matplotlib

    buffer = io.StringIO()
    # A fixed salt makes the file reproducible; salting by name makes the clip ids of two figures
    # differ.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})

    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for role, (_, stand_in) in _ROLES.items():
        text = text.replace(stand_in, f"var(--{role})")
    # Ids such as figure_1 and axes_1 repeat in every file and are never referenced.
    text = re.sub(
        r' id="(?:figure|axes|patch|line2d|matplotlib|[xy]tick|text|legend|\w+Collection'
        r'|FillBetween)[\w.]*"',
        "",
        text,
    )
    # A style element inside an inline SVG would apply to the whole page.
    text = re.sub(
        r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL
    )
    text = re.sub(r"font(?:-family)?: ([^;\"']*)(?:'[^']*'[^;\"]*)?", _page_font, text)

    # The figure scales with its column; its description is the caption beside it.
    head = re.sub(r' (?:width|height)="[^"]*"', "", text[: text.index(">")])
    return head.replace("<svg", '<svg aria-hidden="true"', 1) + text[text.index(">") :]


def _page_font(match: re.Match[str]) -> str:
    size = re.search(r"[\d.]+px", match.group(0))
    return f"font: {size.group(0)} var(--sans)" if size else "font-family: var(--sans)"
