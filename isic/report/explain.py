"""One lesion's page: its tile and maps, its place on the body and among the patient's lesions, what moved its score."""

from __future__ import annotations

from pathlib import Path

from isic.core.errors import InputError
from isic.core.io import atomic_file
from isic.core.params import Params
from isic.core.paths import Layout
from isic.core.schema import PATIENT, TARGET
from isic.evaluate.results import read_results
from isic.report.body import still
from isic.report.build import open_tiles
from isic.report.failures import Reasons, card, nothing, position_of
from isic.report.lesions import TileGallery, overview
from isic.report.maps import activation
from isic.report.page import MAX_TILE_BYTES, asset, environment
from isic.report.patients import describe_patient
from isic.report.reasons import reasons


def explain(layout: Layout, params: Params, isic_id: str, out: Path | None = None) -> Path:
    """Write reports/ISIC_….html (or `out`) about one training lesion and return its path.

    Raises InputError when the lesion is unknown or the stack stage has not run.
    """
    results = read_results(layout.oof, layout.train_metadata, layout.embeddings(params.image.backbones, params.folds))
    lesions = overview(results)
    position = position_of(lesions, isic_id)
    if position < 0:
        raise InputError(f"no lesion {isic_id} in {layout.oof}: give an isic_id of the training data")
    tiles, absent = open_tiles(layout)
    gallery = TileGallery(tiles, MAX_TILE_BYTES)
    maps, notes = activation(layout, lesions, tiles, [isic_id], tuple(params.image.backbones))
    why, unexplained = _reasons(layout, params, isic_id)
    one = lesions.iloc[position]
    patient = lesions[lesions[PATIENT] == one[PATIENT]]
    mine = describe_patient(patient, gallery, isic_id)
    html = (
        environment()
        .get_template("lesion.html")
        .render(
            css=asset("page.css"),
            item=card(lesions, position, gallery, maps, why),
            patient=mine,
            body=still(mine, int(one["rank"])),
            gallery=gallery,
            notes=[*notes, *([absent] if absent else []), *unexplained],
            malignant=int(patient[TARGET].sum()),
        )
    )
    path = out or layout.report.parent / f"{isic_id}.html"
    with atomic_file(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _reasons(layout: Layout, params: Params, isic_id: str) -> tuple[Reasons, list[str]]:
    try:
        return reasons(layout, params)([isic_id]), []
    except InputError as error:
        return nothing, [f"What moved the score is not known: {error}"]
