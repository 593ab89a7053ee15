"""Class-activation maps for the pages, by the networks of the lesion's fold, which were not trained
on it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from isic.core.errors import InputError
from isic.core.schema import ID
from isic.data.tiles import TileStore
from isic.report.failures import Maps, no_output

_METHOD = (
    "Maps are Grad-CAM: bright where the activations raise the network's logit. No network was"
    " trained on the patient. They show where a network responds, not the reason. Grey: no region"
    " raised the logit."
)


def lesion_maps(
    models: Mapping[str, Mapping[int, Path]],
    lesions: pd.DataFrame,
    tiles: TileStore | None,
    ids: Sequence[str],
) -> tuple[Maps, tuple[str, ...]]:
    """Maps of `ids` by every backbone, and notes for the page: the method, and the maps that are
    missing.

    models: backbone -> fold -> folder of the trained network. Without tiles or models there are no
    maps and a note.
    """
    if tiles is None or not models:
        return no_output, ("No class-activation maps: the run has no images.",)

    fold_of = lesions.set_index(ID)["fold"]
    shown: dict[str, list[dict[str, str]]] = {}
    absent: dict[str, list[str]] = {}
    for backbone, folders in models.items():
        for key, group in pd.Series(list(ids)).groupby(fold_of.loc[list(ids)].to_numpy()):
            fold = int(str(key))
            try:
                pictures = _pictures(backbone, folders.get(fold), tiles, list(group))
            except InputError as error:
                absent.setdefault(str(error), []).append(f"{backbone} fold {fold}")
                continue
            for isic_id, picture in pictures.items():
                shown.setdefault(isic_id, []).append(picture)

    notes = tuple(
        f"No class-activation maps of {', '.join(names)}: {reason}."
        for reason, names in absent.items()
    )
    return (lambda isic_id: shown.get(isic_id, [])), ((_METHOD, *notes) if shown else notes)


def _pictures(
    backbone: str, folder: Path | None, tiles: TileStore, ids: Sequence[str]
) -> Mapping[str, dict[str, str]]:
    if folder is None or not (folder / "model.safetensors").is_file():
        raise InputError("the model is missing")

    # Imported late: torch takes seconds.
    from isic.image.cam import class_activation

    return {
        isic_id: {
            "title": f"{backbone}: no region raised the logit" if overlay.empty else backbone,
            "alt": f"Grad-CAM of {backbone} on {isic_id}{': empty' if overlay.empty else ''}",
            "uri": f"data:image/jpeg;base64,{base64.b64encode(overlay.jpeg).decode()}",
        }
        for isic_id, overlay in class_activation(folder, tiles, ids).items()
    }
