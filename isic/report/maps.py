"""Class-activation maps for the page: each lesion's own fold's networks, so that none had seen it."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence

import pandas as pd

from isic.core.errors import InputError
from isic.core.paths import Layout
from isic.core.schema import ID
from isic.data.tiles import TileStore
from isic.report.failures import Maps

ABOUT = (
    "The maps (Grad-CAM: bright where the network's logit hangs on the place) are of networks that never saw the "
    "patient. They hint at where a network looked, not at why. A grey map: no place spoke for malignancy."
)


def activation(
    layout: Layout, lesions: pd.DataFrame, tiles: TileStore | None, ids: Sequence[str], backbones: Sequence[str]
) -> tuple[Maps, tuple[str, ...]]:
    """Maps of `ids` by every backbone, and sentences for the page: what they are, and what could not be made.

    Without tiles or models there are no maps; that is said, not raised.
    """
    if tiles is None or not backbones:
        return (lambda _: []), ("No class-activation maps: the run has no images.",)
    fold_of = lesions.set_index(ID)["fold"]
    shown: dict[str, list[dict[str, str]]] = {}
    absent: dict[str, list[str]] = {}
    for backbone in backbones:
        for fold, group in pd.Series(list(ids)).groupby(fold_of.loc[list(ids)].to_numpy()):
            try:
                pictures = _pictures(layout, backbone, int(str(fold)), tiles, list(group))
            except InputError as error:
                absent.setdefault(str(error), []).append(f"{backbone} fold {fold}")
                continue
            for isic_id, picture in pictures.items():
                shown.setdefault(isic_id, []).append(picture)
    notes = tuple(f"No class-activation maps of {', '.join(names)}: {why}." for why, names in absent.items())
    return (lambda isic_id: shown.get(isic_id, [])), ((ABOUT, *notes) if shown else notes)


def _pictures(
    layout: Layout, backbone: str, fold: int, tiles: TileStore, ids: Sequence[str]
) -> Mapping[str, dict[str, str]]:
    folder = layout.image_model(backbone, fold)
    if not (folder / "model.safetensors").is_file():
        raise InputError("its model is not here")
    # torch takes seconds to import and is only needed from here on.
    from isic.image.cam import class_activation

    return {
        isic_id: {
            "title": f"{backbone}: nothing raised it" if look.silent else backbone,
            "alt": f"Where {backbone} looked in {isic_id}{': nowhere in particular' if look.silent else ''}",
            "uri": f"data:image/jpeg;base64,{base64.b64encode(look.jpeg).decode()}",
        }
        for isic_id, look in class_activation(folder, tiles, ids).items()
    }
