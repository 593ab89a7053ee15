"""Build the report page and the cards from the outputs of a run; missing inputs are listed on the
page.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import isic
from isic.core.errors import InputError
from isic.core.io import atomic_file, read_json, sha256_json
from isic.core.paths import ReportFiles
from isic.core.progress import StepProgress
from isic.data.archive.licences import train_only_sources
from isic.data.tiles import TileStore
from isic.evaluate.ablation import ablation_points
from isic.evaluate.curves import Records
from isic.evaluate.results import RunResults
from isic.report.cards import data_card, model_card, pretraining_sentences
from isic.report.champion import Champion, compare_with_champion
from isic.report.failures import Reasons, failure_cards, no_output
from isic.report.findings import findings
from isic.report.lesions import TileGallery, overview, worst_lesions
from isic.report.maps import lesion_maps
from isic.report.markdown import to_html
from isic.report.page import (
    MAX_PAGE_BYTES,
    MAX_TILE_BYTES,
    Contents,
    headline_warnings,
    render_page,
)
from isic.report.patients import patient_entries

#: Files of points that the stage evaluate writes.
POINTS = (
    "roc",
    "roc_folds",
    "flagged",
    "calibration",
    "decision",
    "histogram",
    "slices",
    "ladder",
    "learning",
    "safe_to_skip",
)
#: Misses shown, and false alarms shown.
CASES = 8
#: Steps and their usual shares of the time, from the demo.
_STEPS = {"draw where the networks look": 3, "explain the worst lesions": 3, "draw the page": 6}


def read_points(plots: Path) -> dict[str, Records]:
    """Points by name from the folder `plots`. Raises InputError when a file is missing or is not a
    list.
    """
    points = {name: read_json(plots / f"{name}.json") for name in POINTS}
    for name, records in points.items():
        if not isinstance(records, list):
            raise InputError(
                f"plots/{name}.json is not a list of points: rerun `dvc repro evaluate`"
            )
    return points


def page_identity(config: Mapping[str, Any]) -> dict[str, str]:
    """MLflow run of the stacker with `config`, version of isic, and today's date."""
    return {
        "run": f"stack-{sha256_json(config)[:8]}",
        "version": isic.__version__,
        "date": date.today().isoformat(),
    }


def open_tiles(path: Path) -> tuple[TileStore | None, str]:
    """The tiles and "", or None and the reason."""
    try:
        store = TileStore(path)
        len(store)
    except InputError as error:
        return None, str(error)
    return store, ""


def build_report(
    out: Path,
    results: RunResults,
    files: ReportFiles,
    params: Mapping[str, Any],
    provenance: Mapping[str, str],
    reasons: Callable[[Sequence[str]], Reasons] | None = None,
    champion: Champion | None = None,
) -> None:
    """Write the page `out`, and model_card.md and data_card.md beside it.

    params: params.yaml as plain values. reasons: isic_ids -> lookup of their reasons.
    Raises InputError when the stage evaluate has not run.
    """
    metrics, points = read_json(files.metrics), read_points(files.plots)
    robustness, families = _read_optional(files.robustness), _read_optional(files.families)
    # An ablation on other lesions is left out.
    if families and (families["lesions"], families["malignant"]) == (
        metrics["n"],
        metrics["positives"],
    ):
        points["families"] = ablation_points(families)
    points["leaderboard"] = _read_lines(files.ledger)
    points["frontier"] = (_read_optional(files.frontier) or {"records": []})["records"]
    nested = robustness.get("nested") if robustness else None

    tiles, tiles_absent = open_tiles(files.tiles)
    gallery = TileGallery(tiles, MAX_TILE_BYTES)
    lesions = overview(results)
    shown = [
        lesions["isic_id"].iloc[index]
        for target in (1, 0)
        for index in worst_lesions(lesions, target, CASES)
    ]
    progress = StepProgress("report", _STEPS)
    progress.start("draw where the networks look")
    maps, maps_note = lesion_maps(files.models, lesions, tiles, shown)

    generated = params["data"]["source"] == "sample"
    sources = train_only_sources(files.models)
    model, data = (
        model_card(metrics, params, provenance, generated, results.rows, sources),
        data_card(results.rows, generated),
    )
    extra = (
        (
            "The lesions are generated: the metrics show that the pipeline works, not how good the"
            " model is."
        ),
        *pretraining_sentences(params),
    )
    progress.start("explain the worst lesions")
    contents = Contents(
        metrics=metrics,
        points=points,
        failures=failure_cards(
            lesions, gallery, CASES, maps, reasons(shown) if reasons else no_output
        ),
        patients=patient_entries(lesions, gallery),
        gallery=gallery,
        cards=to_html(model) + to_html(data),
        provenance=provenance,
        source="Generated data." if generated else "Official data.",
        replicates=int(params["evaluate"]["replicates"]),
        robustness=robustness,
        nested=nested if nested and not nested["absent"] else None,
        nested_absent=nested["absent"] if nested else "the stage robustness has not run",
        champion=compare_with_champion(champion, results, params, provenance) if champion else None,
        images_absent=tiles_absent,
        maps_note=maps_note,
        findings=findings(points, lesions, robustness),
        warnings=headline_warnings(metrics, extra if generated else ()),
    )

    progress.start("draw the page")
    html = render_page(contents)
    if len(html.encode()) > MAX_PAGE_BYTES:
        raise InputError(
            f"the page would have {len(html.encode()):,} bytes, at most {MAX_PAGE_BYTES:,} are"
            " allowed"
        )
    for path, text in (
        (out, html),
        (out.with_name("model_card.md"), model),
        (out.with_name("data_card.md"), data),
    ):
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _read_lines(path: Path) -> Records:
    """The JSON objects of a file with one a line, none when it is absent."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def _read_optional(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None
