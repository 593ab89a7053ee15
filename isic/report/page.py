"""The report page: points, lesions and cards in one self-contained HTML file."""

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
from isic.evaluate.learning import expected_band
from isic.evaluate.safe_to_skip import ALL
from isic.evaluate.slices import MIN_POSITIVES, TONE_METHOD
from isic.evaluate.theme import PAGE, to_svg
from isic.report.body import BODY_BOTTOM, BODY_TOP, HALF_WIDTH, OUTLINE
from isic.report.findings import Finding
from isic.report.lesions import TileGallery

#: Largest page, tiles included.
MAX_PAGE_BYTES = 10_000_000
#: Largest share of the tiles; script, figures, points and the maps of 260 patients take about five
#: megabytes.
MAX_TILE_BYTES = 4_000_000

#: Sensitivity of the operating point that is shown first: where the pAUC begins.
_PRESET = 0.8 - 1e-12

SECTIONS = (
    ("headline", "Headline"),
    ("ladder", "What each part adds"),
    ("curves", "Curves"),
    ("skip", "Safe to skip"),
    ("slices", "Slices"),
    ("robustness", "Robustness"),
    ("patients", "Patients"),
    ("failures", "Where it fails"),
    ("cards", "Cards"),
    ("method", "How to read this"),
)

_NO_CHAMPION = Markup(
    "Nothing was promoted before this page was made. After <code>make promote</code>,"
    " <code>dvc repro -f -s report</code> compares the page with the champion."
)

_LEARNING = "pAUC on the held-out fold after each epoch."
_BAND = (
    " Shaded: final pAUC of published networks of the same kind on all 401,059 lesions; not valid"
    " for generated or partial data."
)


@dataclass(frozen=True)
class Contents:
    """Contents of the page; metrics and points are outputs of the stage evaluate."""

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
    champion_absent: Markup = _NO_CHAMPION
    findings: Sequence[Finding] = ()
    images_absent: str = ""
    maps_note: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())


def render_page(contents: Contents) -> str:
    """The page as HTML that needs no other file and no network."""
    values = {name: getattr(contents, name) for name in Contents.__dataclass_fields__}
    operating = operating_points(contents.points["roc"])
    learning = [row for row in contents.points.get("learning", []) if row["name"].endswith("pauc")]
    return (
        environment()
        .get_template("page.html")
        .render(
            **values,
            svg=figure_svgs(contents.points),
            sections=SECTIONS,
            skip=skip_table(contents.points["safe_to_skip"]),
            slice_groups=list(group_by(contents.points["slices"], "family").items()),
            operating=operating,
            preset=next((i for i, point in enumerate(operating) if point["tpr"] >= _PRESET), 0),
            origin=origin_line(contents.provenance),
            learning_text=_LEARNING
            + _BAND * any(expected_band(row.get("model", "")) for row in learning),
            learning_records=learning,
            has_images=contents.gallery.tiles is not None,
            min_positives=MIN_POSITIVES,
            tone_method=TONE_METHOD,
            css=asset("page.css"),
            js=asset("page.js"),
            data=_script_json(_data(contents)),
            plotly=_plotly(),
        )
    )


def skip_table(records: Records) -> Records:
    """The records of all hospitals, each with those of single hospitals that have a patient with a
    malignant lesion as `hospitals`.
    """
    return [
        record
        | {
            "hospitals": [
                other
                for other in records
                if other["rate"] == record["rate"]
                and other["hospital"] != ALL
                and other["with_malignant"]
            ]
        }
        for record in records
        if record["hospital"] == ALL
    ]


def figure_svgs(points: dict[str, Records]) -> dict[str, str | None]:
    """Inline SVG of every figure, None where the points are missing."""
    drawn = {name: draw(points, PAGE) for name, draw in FIGURES.items()}
    return {
        name: None if figure is None else to_svg(figure, name) for name, figure in drawn.items()
    }


def origin_line(provenance: Mapping[str, str]) -> str:
    """Date, run, commit and version of the page in one line; unknown ones are left out."""
    commit = provenance.get("git_commit", "")[:10]
    dirty = " with uncommitted changes" if provenance.get("git_dirty") == "true" else ""
    parts = {
        "Made on": provenance.get("date", ""),
        "run": provenance.get("run", ""),
        "commit": commit and f"{commit}{dirty}",
        "isic": provenance.get("version", ""),
    }
    line = ", ".join(f"{name} {value}" for name, value in parts.items() if value)
    return f"{line[:1].upper()}{line[1:]}." if line else ""


def operating_points(roc: Records) -> Records:
    """The first point of the curve at or above each of a few sensitivities."""
    levels = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
    points = [
        next((point for point in roc if point["tpr"] >= level - 1e-12), None) for level in levels
    ]
    return list({point["tpr"]: point for point in points if point}.values())


def _data(contents: Contents) -> dict[str, Any]:
    metrics, roc = contents.metrics, contents.points["roc"]
    folds = group_by(contents.points["roc_folds"], "fold")
    return {
        "pauc": metrics["pauc"],
        "benign": metrics["n"] - metrics["positives"],
        "roc": _round_rates(roc),
        "folds": [
            {
                "fold": fold,
                "fpr": [row["fpr"] for row in _round_rates(rows)],
                "tpr": [row["tpr"] for row in _round_rates(rows)],
            }
            for fold, rows in folds.items()
        ],
        "operating": operating_points(roc),
        "patients": contents.patients,
        "tiles": contents.gallery.shown,
        "body": {"outline": OUTLINE, "width": HALF_WIDTH, "bottom": BODY_BOTTOM, "top": BODY_TOP},
        "deepest": max(
            (-value for patient in contents.patients for value in patient["map"]["v"]), default=1.0
        ),
    }


def _round_rates(rows: Records) -> Records:
    """fpr and tpr with five digits, finer than a pixel."""
    return [
        {name: round(value, 5) if name in ("fpr", "tpr") else value for name, value in row.items()}
        for row in rows
    ]


def environment() -> Environment:
    """Template environment: values are escaped, an undefined name raises."""
    environment = Environment(
        loader=PackageLoader("isic.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
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
        "evenly": sample_evenly,
    }
    return environment


def sample_evenly(records: Sequence[Any], most: int) -> list[Any]:
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
    return f"{value:.4g}".replace("-", "−") if isinstance(value, float) else str(value)


def asset(name: str) -> Markup:
    """Text of a file of assets/, unescaped."""
    return Markup(files("isic.report").joinpath("assets", name).read_text(encoding="utf-8"))


def _script_json(value: Any) -> Markup:
    """JSON in which `<` is escaped, so that it cannot close its script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c"))


@cache
def _plotly() -> Markup:
    """plotly.js as base64 of gzip; the browser decompresses it after the page is shown."""
    source = files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    # mtime 0 makes the page reproducible.
    return Markup(base64.b64encode(gzip.compress(source, compresslevel=9, mtime=0)).decode())


def headline_warnings(metrics: Mapping[str, Any], extra: Iterable[str] = ()) -> tuple[str, ...]:
    """Caveats of the headline metrics, then `extra`."""
    warnings = []
    if metrics["positives"] < MIN_POSITIVES:
        warnings.append(
            f"Only {metrics['positives']} malignant lesions are too few for a reliable pAUC. The"
            " worst-ranked fifth of them decides it, and random scores can give far more than"
            " 0.02."
        )
    if len(metrics["folds"]) == 1:
        warnings.append(
            "One fold only: no standard deviation over folds and no out-of-fold calibration."
        )
    return (*warnings, *extra)
