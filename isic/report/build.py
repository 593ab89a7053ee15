"""Gather what a run left and build the page from it; whatever is absent is named on the page, never fatal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from isic.core.errors import InputError
from isic.core.io import atomic_file, read_json
from isic.core.paths import Layout
from isic.data.tiles import TileStore
from isic.evaluate.ablation import ablation_points
from isic.evaluate.curves import Records
from isic.evaluate.results import RunResults
from isic.report.cards import data_card, model_card
from isic.report.champion import Champion, against
from isic.report.failures import Reasons, failures, nothing
from isic.report.findings import findings
from isic.report.lesions import TileGallery, overview, worst
from isic.report.maps import activation
from isic.report.markdown import to_html
from isic.report.page import MAX_BYTES, MAX_TILE_BYTES, Contents, notes, render
from isic.report.patients import patients

#: Points the page cannot do without, and those it can.
POINTS = ("roc", "roc_folds", "flagged", "calibration", "decision", "histogram", "slices", "ladder", "learning")
#: Misses and false alarms shown, each.
CASES = 8


def read_points(layout: Layout) -> dict[str, Records]:
    """The evaluate stage's plots/*.json. Raises InputError when one is missing or no list."""
    points = {name: read_json(layout.plots / f"{name}.json") for name in POINTS}
    for name, records in points.items():
        if not isinstance(records, list):
            raise InputError(f"plots/{name}.json holds no list of points: rerun `dvc repro evaluate`")
    return points


def open_tiles(layout: Layout) -> tuple[TileStore | None, str]:
    """The training tiles, or None and why there are none."""
    try:
        store = TileStore(layout.train_images)
        len(store)
    except InputError as error:
        return None, str(error)
    return store, ""


def build(
    layout: Layout,
    results: RunResults,
    params: Mapping[str, Any],
    provenance: Mapping[str, str],
    reasons: Callable[[Sequence[str]], Reasons] | None = None,
    champion: Champion | None = None,
) -> None:
    """Write reports/index.html, reports/model_card.md and reports/data_card.md.

    Raises InputError when the evaluate stage has not run.
    """
    metrics, points = read_json(layout.evaluate_metrics), read_points(layout)
    tiles, why = open_tiles(layout)
    gallery = TileGallery(tiles, MAX_TILE_BYTES)
    lesions = overview(results)
    shown = [lesions["isic_id"].iloc[position] for target in (1, 0) for position in worst(lesions, target, CASES)]
    maps, maps_note = activation(layout, lesions, tiles, shown, tuple(params["image"]["backbones"]))
    robustness = _optional(layout.root / "metrics" / "robustness.json")
    families = _optional(layout.root / "metrics" / "features.json")
    # Measured on other lesions it would speak of other data.
    of_these = families is not None and (families["lesions"], families["malignant"]) == (
        metrics["n"],
        metrics["positives"],
    )
    points["families"] = ablation_points(families) if families and of_these else []
    nested = robustness.get("nested") if robustness else None
    points["ladder"] = [*(robustness["steps"] if robustness else []), *points["ladder"]]
    generated = params["data"]["source"] == "sample"
    model, data = model_card(metrics, params, provenance, generated), data_card(results.rows, generated)
    extra = ("The lesions are generated: these numbers show that the pipeline works, not how good the model is.",)
    contents = Contents(
        metrics=metrics,
        points=points,
        failures=failures(lesions, gallery, CASES, maps, reasons(shown) if reasons else nothing),
        patients=patients(lesions, gallery),
        gallery=gallery,
        cards=to_html(model) + to_html(data),
        provenance=provenance,
        source="Generated data." if generated else "Official data.",
        replicates=int(params["evaluate"]["replicates"]),
        robustness=robustness,
        nested=nested if nested and not nested["absent"] else None,
        nested_absent=nested["absent"] if nested else "the stage robustness has not run",
        champion=against(champion, results, params, provenance) if champion else None,
        images_absent=why,
        maps_note=maps_note,
        findings=findings(points, lesions, robustness),
        warnings=notes(metrics, extra if generated else ()),
    )
    html = render(contents)
    if len(html.encode()) > MAX_BYTES:
        raise InputError(f"the page would take {len(html.encode()):,} bytes, at most {MAX_BYTES:,} are allowed")
    for path, text in (
        (layout.report, html),
        (_beside(layout, "model_card.md"), model),
        (_beside(layout, "data_card.md"), data),
    ):
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _beside(layout: Layout, name: str) -> Path:
    return layout.report.parent / name


def _optional(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.is_file() else None
