"""From rows and tiles to scores by a bundle: the way the out-of-fold scores were made, fold by fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.schema import ID, PATIENT, TEST_COLUMNS

if TYPE_CHECKING:
    from isic.data.tiles import TileStore
    from isic.registry.bundle import Bundle

MissingImages = Literal["error", "impute"]


def score_rows(
    bundle: Bundle, rows: pd.DataFrame, tiles: TileStore | None, missing_images: MissingImages, folds: Sequence[int]
) -> pd.Series:
    """See `Bundle.predict`."""
    from isic.tabular import build_features

    check_rows(rows)
    features = build_features(rows, list(bundle.manifest.families))
    present = find_tiles(rows[ID], tiles, missing_images)
    total = np.zeros(len(rows))
    for fold in folds:
        logits, embeddings = _see(bundle, fold, tiles, rows[ID], present)
        total += bundle.stack.score(features, logits, fold, rows[PATIENT], embeddings)
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
    """Which lesions have a tile, (n,). Raises InputError naming the first that has none, unless they are imputed."""
    present = np.zeros(len(ids), dtype=bool) if tiles is None else ids.isin(set(tiles.ids())).to_numpy(dtype=bool)
    if missing_images == "error" and not present.all():
        first = ids[~present].iloc[0]
        where = "no image file was given" if tiles is None else f"{tiles.path} has no image for it"
        raise InputError(
            f"lesion {first}: {where} ({int((~present).sum())} of {len(ids)} lesions have none); "
            "add the images or use --missing-images impute"
        )
    return present


def _see(
    bundle: Bundle, fold: int, tiles: TileStore | None, ids: pd.Series, present: NDArray[np.bool_]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float16]]]:
    """What a fold's image models say: {backbone: logits (n,)} and, if the stacker reads them, {backbone: embeddings}.

    NaN where there is no tile.
    """
    logits: dict[str, NDArray[np.float32]] = {}
    embeddings: dict[str, NDArray[np.float16]] = {}
    for backbone in bundle.manifest.backbones:
        logits[backbone] = np.full(len(ids), np.nan, dtype=np.float32)
        if tiles is None or not present.any():
            continue
        from isic.image.embed import embed

        said = embed(bundle.image_model(backbone, fold), tiles, ids[present].tolist())
        logits[backbone][present] = said.logits
        if bundle.stack.uses_embeddings:
            embeddings[backbone] = np.full((len(ids), said.embeddings.shape[1]), np.nan, dtype=np.float16)
            embeddings[backbone][present] = said.embeddings
    return logits, embeddings
