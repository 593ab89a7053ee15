"""Pictures that train a network and are never scored: those of other sources (`image.train.archive`)
and a folder of labelled tiles (`image.train.extra`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.io import sha256, sha256_json
from isic.core.params import ImageRecipe
from isic.core.schema import ID, PATIENT, TARGET
from isic.data.archive.forms import Files, list_files, read_diagnoses
from isic.data.archive.people import PICTURES, may_train, read_sources
from isic.data.archive.pictures import read_picture
from isic.data.tiles import TileStore
from isic.image.network.cache import Tiles

#: Largest side of an extra tile; larger pictures are shrunk when they are read.
_MOST = 1024


class _Pictures(Protocol):
    """Source of pictures."""

    def image(self, isic_id: str) -> NDArray[np.uint8]:
        """uint8 RGB (height, width, 3)."""


@dataclass(frozen=True)
class TrainOnly:
    """Pictures that only train.

    rows: `isic_id`, `target`, `diagnosis` and `archive` (false: of the extra folder), ids unique.
    homes: isic_id -> where its pixels are. sources: counts and licences, for config.json. content:
    hash of all pictures.
    """

    rows: pd.DataFrame
    homes: Mapping[str, _Pictures]
    sources: list[dict[str, Any]]
    content: str


class JoinedTiles:
    """The tiles of the folds, and the centre squares of the pictures that only train. Picklable."""

    def __init__(self, tiles: Tiles, train_only: TrainOnly) -> None:
        self.path = tiles.path
        self._tiles = tiles
        self._homes = train_only.homes

    def image(self, isic_id: str) -> NDArray[np.uint8]:
        """uint8 RGB (height, width, 3)."""
        home = self._homes.get(isic_id)
        return self._tiles.image(isic_id) if home is None else _square(home.image(isic_id))


class _Folder:
    """Pictures of a folder by name. Picklable."""

    def __init__(self, files: Files) -> None:
        self._paths = dict(files.pictures)

    def image(self, isic_id: str) -> NDArray[np.uint8]:
        return read_picture(self._paths[isic_id], _MOST)


def read_train_only(
    recipe: ImageRecipe, folders: Sequence[Path], folds: pd.DataFrame, held_out: Sequence[int]
) -> TrainOnly:
    """The pictures that train with all folds but `held_out` (the scored one, and that of early
    stopping).

    folders: of the imported sources. folds: isic_id, patient_id, fold. Pictures of a patient of a
    held-out fold or of the test set are left out (see `may_train`), and those that the challenge
    has itself. Raises InputError when a source was not imported or none of its pictures is left,
    and for an extra folder that is not usable.
    """
    is_held_out = folds["fold"].isin(list(held_out))
    training, scored = (set(folds.loc[rows, PATIENT]) for rows in (~is_held_out, is_held_out))
    known = set(folds[ID])
    parts, sources, content = [], [], []
    homes: dict[str, _Pictures] = {}

    if recipe.archive != "none":
        rows = read_sources(folders)
        usable = may_train(rows, training, scored)
        kept = rows[usable & ~rows[ID].isin(known)].drop_duplicates(ID)
        if kept[TARGET].nunique() < 2:
            raise InputError(
                f"image.train.archive {recipe.archive}: of {len(rows):,} pictures {len(kept):,} are"
                " left, of one class: name more sources in data.archive"
            )
        stores = {folder: TileStore(Path(folder) / PICTURES) for folder in kept["folder"].unique()}
        homes |= dict(zip(kept[ID], kept["folder"].map(stores), strict=True))
        parts.append(kept.assign(archive=True))
        content += [sha256(store.path) for store in stores.values()]
        for name, source in rows.groupby("source", sort=False):
            own = kept[kept["source"] == name]
            other_people = int((~usable[source.index]).sum())
            sources.append(_count(str(name), recipe.archive, own, other_people))

    if recipe.extra is not None:
        files = list_files(Path(recipe.extra))
        extra = read_diagnoses("folder", files)
        _check_extra(recipe.extra, extra, files, known | set(homes))
        kept = extra[~extra[PATIENT].isin(scored)]
        homes |= dict.fromkeys(kept[ID], _Folder(files))
        parts.append(kept.assign(archive=False))
        content += [sha256(files.pictures[name]) for name in kept[ID]]
        sources.append(_count(Path(recipe.extra).name, "extra", kept, len(extra) - len(kept)))

    columns = [ID, TARGET, "diagnosis", "archive"]
    joined = pd.concat([part[columns] for part in parts], ignore_index=True)
    return TrainOnly(joined.astype({TARGET: "int64"}), homes, sources, sha256_json(content))


def _check_extra(folder: str, rows: pd.DataFrame, files: Files, taken: set[str]) -> None:
    for fault, wrong in (
        ("no label", rows[TARGET].isna()),
        ("no picture", ~rows[ID].isin(list(files.pictures))),
        ("the id of another lesion that is trained or scored", rows[ID].isin(list(taken))),
    ):
        if wrong.any():
            raise InputError(
                f"image.train.extra {folder}: {int(wrong.sum())} rows have {fault} (first"
                f" {rows.loc[wrong, ID].iloc[0]}): mend or remove them"
            )


def _count(name: str, use: str, kept: pd.DataFrame, other_people: int) -> dict[str, Any]:
    """One source in config.json."""
    return {
        "source": name,
        "use": use,
        "pictures": len(kept),
        "malignant": int(kept[TARGET].sum()),
        "left_out_for_patients": other_people,
        "licences": sorted(set(kept["licence"])),
    }


def describe_train_only(source: Mapping[str, Any]) -> str:
    """One line about a source of config.json."""
    line = (
        f"{source['source']} ({source['use']}): {source['pictures']:,} pictures train too,"
        f" {source['malignant']:,} malignant"
    )
    left_out = source["left_out_for_patients"]
    return line + (f"; {left_out:,} left out, of patients who are scored" if left_out else "")


def _square(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The square in the centre: a tile is a square around its lesion, and so it keeps its shape."""
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]
