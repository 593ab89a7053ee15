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
    from isic.stack import Stack

MissingImages = Literal["error", "impute"]

#: Rows that are turned into features and scores at a time, in whole patients: on the way to some 200 columns, a lesion
#: takes 9 KB.
BLOCK = 20_000


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
    check_rows(rows)
    present = find_tiles(rows[ID], tiles, manner.missing_images)
    # Where the tile of a row is among those that are looked at; meaningless for a row without one.
    place = np.cumsum(present) - 1
    blocks = patient_blocks(rows[PATIENT], BLOCK)
    parts = [_Part(bundle, rows, block, present[block], place[block]) for block in blocks]
    total = np.zeros(len(rows))
    # Embeddings of every fold at once would fill the memory.
    for group in [[fold] for fold in folds] if bundle.stack.uses_embeddings else [folds]:
        try:
            sights = _see(bundle, group, tiles, rows.loc[present, ID].tolist(), manner)
        except Exception as error:
            if not manner.fallback:
                raise
            stack = _without_images(bundle, error)
            for part in parts:
                total[part.block] = part.without_images(stack, folds)
            break
        for part in parts:
            total[part.block] += part.with_images(group, sights)
    return pd.Series(total / len(folds), index=pd.Index(rows[ID], name=ID), name="target")


def patient_blocks(patients: pd.Series, size: int) -> list[NDArray[np.intp]]:
    """Row numbers of blocks of whole patients, each of `size` rows or a little more (one patient may be larger)."""
    codes, names = pd.factorize(patients, use_na_sentinel=False)
    sizes = np.bincount(codes, minlength=len(names))
    block = ((np.cumsum(sizes) - sizes) // size)[codes]
    return [np.flatnonzero(block == number) for number in np.unique(block)]


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
    """Which lesions have a tile, (n,).

    Raises InputError naming the first lesion that has none, unless they are imputed.
    """
    present = np.array([tiles is not None and name in tiles for name in ids], dtype=bool)
    if missing_images == "error" and not present.all():
        first = ids[~present].iloc[0]
        where = "no image file was given" if tiles is None else f"{tiles.path} has no image for it"
        raise InputError(
            f"lesion {first}: {where} ({int((~present).sum())} of {len(ids)} lesions have none); "
            "add the images or use --missing-images impute"
        )
    return present


def _see(
    bundle: Bundle, folds: Sequence[int], tiles: TileStore | None, ids: list[str], manner: Manner
) -> dict[Key, Sight]:
    """What the folds' image models say about these tiles, {} when there are none."""
    if tiles is None or not ids:
        return {}
    spare = manner.missing_images == "impute"
    work = None if manner.work is None else work_folder(manner.work, bundle.manifest.hash, tiles, ids, spare)
    look = Look(bundle.folder, tiles, ids, bundle.stack.uses_embeddings, work, spare)
    return look_through(look, [(backbone, fold) for backbone in bundle.manifest.backbones for fold in folds])


@dataclass(frozen=True)
class _Part:
    """Whole patients of a table: row numbers `block` (n,), whether each has a tile, and its place among those seen."""

    bundle: Bundle
    table: pd.DataFrame
    block: NDArray[np.intp]
    present: NDArray[np.bool_]
    place: NDArray[np.intp]

    def with_images(self, folds: Sequence[int], sights: dict[Key, Sight]) -> NDArray[np.float64]:
        """Sum of the scores (n,) of the folds' chains."""
        rows, features = self._features()
        return np.sum([self._chain(rows, features, sights, fold) for fold in folds], axis=0)

    def without_images(self, stack: Stack, folds: Sequence[int]) -> NDArray[np.float64]:
        """The same by a stacker that needs no image."""
        rows, features = self._features()
        return np.sum([stack.score(features, {}, fold, rows[PATIENT]) for fold in folds], axis=0)

    def _features(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        from isic.tabular import build_features

        rows = self.table.iloc[self.block]
        return rows, build_features(rows, list(self.bundle.manifest.families))

    def _chain(
        self, rows: pd.DataFrame, features: pd.DataFrame, sights: dict[Key, Sight], fold: int
    ) -> NDArray[np.float64]:
        """Scores (n,) of one fold's chain; what the images say is NaN where there is no tile."""
        logits: dict[str, NDArray[np.float32]] = {}
        embeddings: dict[str, NDArray[np.float16]] = {}
        for backbone in self.bundle.manifest.backbones:
            sight = sights.get((backbone, fold))
            logits[backbone] = self._spread(None if sight is None else sight.logits, np.float32)
            if sight is not None and sight.embeddings is not None:
                embeddings[backbone] = self._spread(sight.embeddings, np.float16)
        return self.bundle.stack.score(features, logits, fold, rows[PATIENT], embeddings)

    def _spread(self, said: NDArray | None, kind: type) -> NDArray:
        """What was said of the tiles, by row; NaN where there is none."""
        width = () if said is None else said.shape[1:]
        spread = np.full((len(self.block), *width), np.nan, dtype=kind)
        if said is not None:
            spread[self.present] = said[self.place[self.present]]
        return spread


def _without_images(bundle: Bundle, error: Exception) -> Stack:
    """The features-only stacker, after saying so loudly; InputError where the bundle has none."""
    stack = bundle.features_only
    if stack is None:
        raise InputError(f"{bundle.folder} has no features-only stacker to fall back on: build it again") from error
    reason = " ".join(str(error).split())[:200]
    sys.stderr.write(
        "isic: WARNING: AN IMAGE MODEL FAILED AND NO IMAGE WAS USED. Every score comes from the features-only stacker, "
        f"which is worse ({type(error).__name__}: {reason})\n"
    )
    return stack
