"""From rows and tiles to scores by a bundle: the way the out-of-fold scores were made, fold by fold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.schema import ID, PATIENT, TEST_COLUMNS
from isic.registry.sight import Key, Look, Sight, look_through, work_folder

if TYPE_CHECKING:
    from isic.data.tiles import TileStore
    from isic.registry.bundle import Bundle

MissingImages = Literal["error", "impute"]


@dataclass(frozen=True)
class Manner:
    """How to go about it. `work`: keep what is done there, to go on after a kill; `fallback`: see `Bundle.predict`."""

    missing_images: MissingImages = "error"
    work: Path | None = None
    fallback: bool = False


def score_rows(
    bundle: Bundle, rows: pd.DataFrame, tiles: TileStore | None, folds: Sequence[int], manner: Manner
) -> pd.Series:
    """See `Bundle.predict`."""
    from isic.tabular import build_features

    check_rows(rows)
    present = find_tiles(rows[ID], tiles, manner.missing_images)
    features = build_features(rows, list(bundle.manifest.families))
    try:
        sights = _see(bundle, folds, tiles, rows.loc[present, ID].tolist(), manner.work)
    except Exception as error:
        if not manner.fallback:
            raise
        total = _features_only(bundle, features, folds, rows, error)
    else:
        total = sum((_chain(bundle, features, rows, present, sights, fold) for fold in folds), np.zeros(len(rows)))
    return pd.Series(total / len(folds), index=pd.Index(rows[ID], name=ID), name="target")


def check_rows(rows: pd.DataFrame) -> None:
    """Raise InputError for an empty frame, missing columns, or a missing or repeated id."""
    missing = [column for column in TEST_COLUMNS if column not in rows.columns]
    if missing:
        raise InputError(f"the metadata lacks {', '.join(missing[:5])}: give all columns of test-metadata.csv")
    if rows.empty:
        raise InputError("the metadata has no rows: give at least one lesion")
    if rows[ID].isna().any() or rows[ID].duplicated().any():
        repeated = rows[ID][rows[ID].duplicated() | rows[ID].isna()].iloc[0]
        raise InputError(f"isic_id {repeated} is missing or repeated in the metadata: keep one row of each")


def find_tiles(ids: pd.Series, tiles: TileStore | None, missing_images: MissingImages) -> NDArray[np.bool_]:
    """Which lesions have a tile, (n,); when imputing, a tile that is no JPEG counts as none.

    Raises InputError naming the first lesion that has none, unless they are imputed.
    """
    known = set() if tiles is None else set(tiles.ids())
    present = np.array([name in known for name in ids], dtype=bool)
    if missing_images == "error" and not present.all():
        first = ids[~present].iloc[0]
        where = "no image file was given" if tiles is None else f"{tiles.path} has no image for it"
        raise InputError(
            f"lesion {first}: {where} ({int((~present).sum())} of {len(ids)} lesions have none); "
            "add the images or use --missing-images impute"
        )
    if missing_images == "impute" and tiles is not None:
        present[present] = [_readable(tiles, name) for name in ids[present]]
    return present


def _readable(tiles: TileStore, name: str) -> bool:
    from isic.data.tiles import jpeg_size

    try:
        jpeg_size(tiles.jpeg(name), name)
    except InputError as error:
        sys.stderr.write(f"isic: note: {error}; its image is imputed\n")
        return False
    return True


def _see(
    bundle: Bundle, folds: Sequence[int], tiles: TileStore | None, ids: list[str], home: Path | None
) -> dict[Key, Sight]:
    """What the folds' image models say about these tiles, {} when there are none."""
    if tiles is None or not ids:
        return {}
    work = None if home is None else work_folder(home, bundle.manifest.hash, tiles, ids)
    look = Look(bundle.folder, tiles, ids, bundle.stack.uses_embeddings, work)
    return look_through(look, [(backbone, fold) for backbone in bundle.manifest.backbones for fold in folds])


def _chain(
    bundle: Bundle,
    features: pd.DataFrame,
    rows: pd.DataFrame,
    present: NDArray[np.bool_],
    sights: dict[Key, Sight],
    fold: int,
) -> NDArray[np.float64]:
    """Scores (n,) of one fold's chain; what the images say is NaN where there is no tile."""
    logits: dict[str, NDArray[np.float32]] = {}
    embeddings: dict[str, NDArray[np.float16]] = {}
    for backbone in bundle.manifest.backbones:
        logits[backbone] = np.full(len(rows), np.nan, dtype=np.float32)
        sight = sights.get((backbone, fold))
        if sight is None:
            continue
        logits[backbone][present] = sight.logits
        if sight.embeddings is not None:
            embeddings[backbone] = np.full((len(rows), sight.embeddings.shape[1]), np.nan, dtype=np.float16)
            embeddings[backbone][present] = sight.embeddings
    return bundle.stack.score(features, logits, fold, rows[PATIENT], embeddings)


def _features_only(
    bundle: Bundle, features: pd.DataFrame, folds: Sequence[int], rows: pd.DataFrame, error: Exception
) -> NDArray[np.float64]:
    fallback = bundle.features_only
    if fallback is None:
        raise InputError(f"{bundle.folder} has no features-only stacker to fall back on: build it again") from error
    reason = " ".join(str(error).split())[:200]
    sys.stderr.write(
        "isic: WARNING: AN IMAGE MODEL FAILED AND NO IMAGE WAS USED. Every score comes from the features-only stacker, "
        f"which is worse ({type(error).__name__}: {reason})\n"
    )
    return sum((fallback.score(features, {}, fold, rows[PATIENT]) for fold in folds), np.zeros(len(rows)))
