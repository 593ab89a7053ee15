"""Page of one lesion: tile and class-activation maps, position on the body, the patient's lesions,
reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from isic.core.errors import InputError
from isic.core.io import atomic_file
from isic.core.schema import PATIENT, TARGET
from isic.evaluate.results import RunResults
from isic.report.body import body_map
from isic.report.build import open_tiles
from isic.report.failures import Reasons, lesion_card
from isic.report.lesions import TileGallery, find_lesion, overview
from isic.report.maps import lesion_maps
from isic.report.page import MAX_TILE_BYTES, asset, environment
from isic.report.patients import patient_entry


def write_lesion_page(
    out: Path,
    results: RunResults,
    isic_id: str,
    tiles_path: Path,
    models: Mapping[str, Mapping[int, Path]],
    reasons: Callable[[Sequence[str]], Reasons],
) -> None:
    """Write the page of one training lesion to `out`.

    models: backbone -> fold -> folder of the trained network. reasons: isic_ids -> lookup of their
    reasons. Raises InputError when the lesion is unknown.
    """
    lesions = overview(results)
    position = find_lesion(lesions, isic_id)
    if position < 0:
        raise InputError(
            f"no lesion {isic_id} has an out-of-fold score: give an isic_id of the training data"
        )

    tiles, absent = open_tiles(tiles_path)
    gallery = TileGallery(tiles, MAX_TILE_BYTES)
    maps, notes = lesion_maps(models, lesions, tiles, [isic_id])

    lesion = lesions.iloc[position]
    patient = lesions[lesions[PATIENT] == lesion[PATIENT]]
    entry = patient_entry(patient, gallery, isic_id)
    html = (
        environment()
        .get_template("lesion.html")
        .render(
            css=asset("page.css"),
            item=lesion_card(lesions, position, gallery, maps, reasons([isic_id])),
            patient=entry,
            body=body_map(entry, int(lesion["rank"])),
            gallery=gallery,
            notes=[*notes, *([absent] if absent else [])],
            malignant=int(patient[TARGET].sum()),
        )
    )
    with atomic_file(out) as temporary:
        temporary.write_text(html, encoding="utf-8")
