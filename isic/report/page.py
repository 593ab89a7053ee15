"""The page: points, lesions and cards poured into one self-contained HTML file."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from isic.evaluate.curves import Records, group_by
from isic.evaluate.figures import FIGURES
from isic.evaluate.slices import MIN_POSITIVES, TONE_METHOD
from isic.evaluate.theme import PAGE, to_svg
from isic.report.body import BOTTOM, HALF_WIDTH, OUTLINE, TOP
from isic.report.findings import Finding
from isic.report.lesions import TileGallery

#: The page stays below this, tiles included.
MAX_BYTES = 10_000_000
#: What of it tiles may take; script, pictures, points and the maps of 260 patients take about five megabytes.
MAX_TILE_BYTES = 4_000_000

SECTIONS = (
    ("headline", "Headline"),
    ("ladder", "What each part adds"),
    ("curves", "Curves"),
    ("slices", "Slices"),
    ("robustness", "Robustness"),
    ("patients", "Patients"),
    ("failures", "Where it fails"),
    ("cards", "Cards"),
    ("method", "How to read this"),
)

LEARNING_TEXT = (
    "pAUC on the held-out fold after each epoch. Shaded ends are where published networks of the kind end on the full "
    "401,059 lesions; generated or partial data end elsewhere."
)


@dataclass(frozen=True)
class Contents:
    """Everything the page shows. metrics and points are the evaluate stage's files, the rest is made for the page."""

    metrics: dict[str, Any]
    points: dict[str, Records]
    patients: list[dict[str, Any]]
    failures: dict[str, list[dict[str, Any]]]
    gallery: TileGallery
    cards: str
    provenance: Mapping[str, str]
    source: str
    replicates: int
    robustness: dict[str, Any] | None = None
    nested: dict[str, Any] | None = None
    nested_absent: str = "isic check-stack"
    champion: dict[str, Any] | None = None
    champion_absent: str = "No champion was found when this page was made: “make promote” makes a run the champion."
    findings: Sequence[Finding] = ()
    images_absent: str = ""
    maps_note: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())


def render(contents: Contents) -> str:
    """The page as text. Everything is inside: no file and no network is needed to read it."""
    values = {name: getattr(contents, name) for name in Contents.__dataclass_fields__}
    return (
        environment()
        .get_template("page.html")
        .render(
            **values,
            svg=pictures(contents.points),
            sections=SECTIONS,
            slice_groups=list(group_by(contents.points["slices"], "family").items()),
            operating=operating(contents.points["roc"]),
            learning_text=LEARNING_TEXT,
            learning_records=[row for row in contents.points.get("learning", []) if row["name"].endswith("pauc")],
            has_images=contents.gallery.tiles is not None,
            min_positives=MIN_POSITIVES,
            tone_method=TONE_METHOD,
            css=asset("page.css"),
            js=asset("page.js"),
            data=_script_json(_data(contents)),
            plotly=_plotly(),
        )
    )


def pictures(points: dict[str, Records]) -> dict[str, str | None]:
    """Inline SVG of every figure, None where the points are missing."""
    drawn = {name: draw(points, PAGE) for name, draw in FIGURES.items()}
    return {name: None if figure is None else to_svg(figure, name) for name, figure in drawn.items()}


def operating(roc: Records) -> Records:
    """The first point of the curve that reaches each of a few sensitivities."""
    wanted = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
    found = [next((point for point in roc if point["tpr"] >= level - 1e-12), None) for level in wanted]
    return list({point["tpr"]: point for point in found if point}.values())


def _data(contents: Contents) -> dict[str, Any]:
    metrics, roc = contents.metrics, contents.points["roc"]
    folds = group_by(contents.points["roc_folds"], "fold")
    return {
        "pauc": metrics["pauc"],
        "benign": metrics["n"] - metrics["positives"],
        "roc": _short(roc),
        "folds": [
            {"fold": fold, "fpr": [row["fpr"] for row in _short(rows)], "tpr": [row["tpr"] for row in _short(rows)]}
            for fold, rows in folds.items()
        ],
        "operating": operating(roc),
        "patients": contents.patients,
        "tiles": contents.gallery.shown,
        "body": {"outline": OUTLINE, "width": HALF_WIDTH, "bottom": BOTTOM, "top": TOP},
        "deepest": max((-value for patient in contents.patients for value in patient["map"]["v"]), default=1.0),
    }


def _short(rows: Records) -> Records:
    """Five digits are finer than a screen."""
    return [{name: round(value, 5) if name in ("fpr", "tpr") else value for name, value in row.items()} for row in rows]


def environment() -> Environment:
    """Templates of this room: every value escaped, an unknown name an error instead of a gap."""
    made = Environment(
        loader=PackageLoader("isic.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "f1": lambda value: f"{value:.1f}",
        "f3": lambda value: _number(value, 3),
        "f4": lambda value: _number(value, 4),
        "signed": lambda value: f"{value:+.4f}".replace("-", "−"),
        "percent": lambda value: "–" if value is None else f"{100 * value:.1f} %",
        "share": _share,
        "minus": lambda text: text.replace(" -", " −"),
        "capital": lambda value: value[:1].upper() + value[1:],
        "thousands": lambda value: f"{value:,}",
        "cell": _cell,
        "evenly": evenly,
    }
    return made


def evenly(records: Sequence[Any], most: int) -> list[Any]:
    """At most `most` of the records, evenly spaced, first and last included."""
    if len(records) <= most:
        return list(records)
    return [records[round(i * (len(records) - 1) / (most - 1))] for i in range(most)]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _share(value: float) -> str:
    percent = 100 * value
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def asset(name: str) -> Markup:
    """A file of assets/ as it is, to be put into a page."""
    return Markup(files("isic.report").joinpath("assets", name).read_text(encoding="utf-8"))


def _script_json(value: Any) -> Markup:
    """JSON that cannot end its script element early."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c"))


@cache
def _plotly() -> Markup:
    """plotly.js, compressed: the browser unpacks it after the page is readable."""
    source = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    # mtime 0 keeps the page equal between runs.
    return Markup(base64.b64encode(gzip.compress(source, compresslevel=9, mtime=0)).decode())


def notes(metrics: Mapping[str, Any], extra: Iterable[str] = ()) -> tuple[str, ...]:
    """What a reader must know before believing the headline."""
    found = []
    if metrics["positives"] < MIN_POSITIVES:
        found.append(
            f"Only {metrics['positives']} malignant lesions: too few to say. The pAUC is decided by the worst-ranked "
            "fifth of them, and chance alone gives far more than 0.02."
        )
    if len(metrics["folds"]) == 1:
        found.append("One fold only: there is no spread between folds, and nothing to fit a calibration on.")
    return (*found, *extra)
