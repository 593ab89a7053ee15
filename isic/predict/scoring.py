"""From rows and tiles to scores by a bundle: the way the out-of-fold scores were made, fold by fold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.schema import PATIENT
from isic.predict.image_scores import ImageScoringJob, TileError, score_images
from isic.predict.models import BundleModels
from isic.predict.rows import PatientChunks, patient_blocks

if TYPE_CHECKING:
    from isic.data.tiles import TileStore
    from isic.stack import Stack

MissingImages = Literal["error", "impute"]

#: Rows that are turned into features and scores at a time, in whole patients: on the way to some 300 columns, a lesion
#: takes 9 KB.
BLOCK = 8_192


@dataclass(frozen=True)
class ScoringOptions:
    """How to go about it. `work`: keep what is done there, to go on after a kill; `fallback`: see `Bundle.predict`."""

    missing_images: MissingImages = "error"
    work: Path | None = None
    fallback: bool = False


def score_pieces(
    bundle: BundleModels, pieces: PatientChunks, tiles: TileStore | None, folds: Sequence[int], manner: ScoringOptions
) -> NDArray[np.float64]:
    """Scores (n,) by row; see `Bundle.predict`. Memory holds one piece, and what image models say of all tiles where
    no folder is to keep it.
    """
    if not bundle.manifest.backbones:
        # It looks at no tile, so none can be missing.
        tiles, manner = None, replace(manner, missing_images="impute")
    present = find_tiles(pieces, tiles, manner.missing_images)
    total = np.zeros(len(present))
    # Without files, embeddings of every fold at once would fill the memory.
    apart = bundle.stack.uses_embeddings and manner.work is None
    for group in [[fold] for fold in folds] if apart else [folds]:
        try:
            look = _see(bundle, group, tiles, pieces, present, manner)
        except TileError:
            raise
        except Exception as error:
            if not manner.fallback:
                raise
            stack = _without_images(bundle, error)
            total[:] = 0.0
            _add(total, bundle, pieces, present, partial(_Part.without_images, stack=stack, folds=folds))
            break
        _add(total, bundle, pieces, present, partial(_Part.with_images, folds=group, look=look))
    return total / len(folds)


def find_tiles(pieces: PatientChunks, tiles: TileStore | None, missing_images: MissingImages) -> NDArray[np.bool_]:
    """Which lesions have a tile, (n,) by row.

    Raises InputError naming the first lesion that has none, unless they are imputed.
    """
    present = np.fromiter((tiles is not None and name in tiles for name in pieces.ids), bool, len(pieces.ids))
    if missing_images == "error" and not present.all():
        first = pieces.ids[~present].iloc[0]
        where = "no image file was given" if tiles is None else f"{tiles.path} has no image for it"
        raise InputError(
            f"lesion {first}: {where} ({int((~present).sum())} of {len(present)} lesions have none); "
            "add the images or use --missing-images impute"
        )
    return present


def _see(
    bundle: BundleModels,
    folds: Sequence[int],
    tiles: TileStore | None,
    pieces: PatientChunks,
    present: NDArray[np.bool_],
    manner: ScoringOptions,
) -> ImageScoringJob | None:
    """Have the folds' image models look at the tiles, piece by piece; None when there are none."""
    if tiles is None or not present.any():
        return None

    def ids(number: int) -> list[str]:
        names = pieces.names(number)
        return names[present[names.index]].tolist()

    look = ImageScoringJob(
        bundle.folder, tiles, ids, len(pieces), bundle.stack.uses_embeddings, manner.missing_images == "impute"
    )
    if manner.work is not None:
        look.work = manner.work / look.identity(bundle.manifest.hash)
    score_images(
        look, [(backbone, fold) for backbone in bundle.manifest.backbones for fold in folds], int(present.sum())
    )
    return look


def _add(
    total: NDArray[np.float64],
    bundle: BundleModels,
    pieces: PatientChunks,
    present: NDArray[np.bool_],
    score: Callable[[_Part], NDArray[np.float64]],
) -> None:
    """Add to every row's total what `score` says of it, part by part."""
    from isic.tabular import build_features

    for number in range(len(pieces)):
        rows = pieces.piece(number)
        place = rows.index.to_numpy()
        seen = np.where(present[place], np.cumsum(present[place]) - 1, -1)
        for block in patient_blocks(rows[PATIENT], BLOCK):
            some = rows.iloc[block]
            features = build_features(some, list(bundle.manifest.families))
            total[place[block]] += score(_Part(bundle, number, some[PATIENT], features, seen[block]))
            del features  # or the next ones are built beside them


@dataclass(frozen=True)
class _Part:
    """Whole patients of piece `number`; by lesion (n,) patient, features, place among the piece's tiles (-1: none)."""

    bundle: BundleModels
    number: int
    patients: pd.Series
    features: pd.DataFrame
    seen: NDArray[np.int64]

    def with_images(self, folds: Sequence[int], look: ImageScoringJob | None) -> NDArray[np.float64]:
        """Sum of the scores (n,) of the folds' chains."""
        return np.sum([self._chain(look, fold) for fold in folds], axis=0)

    def without_images(self, stack: Stack, folds: Sequence[int]) -> NDArray[np.float64]:
        """The same by a stacker that needs no image."""
        return np.sum([stack.score(self.features, {}, fold, self.patients) for fold in folds], axis=0)

    def _chain(self, look: ImageScoringJob | None, fold: int) -> NDArray[np.float64]:
        """Scores (n,) of one fold's chain; what the images say is NaN where there is no tile."""
        logits: dict[str, NDArray[np.float32]] = {}
        embeddings: dict[str, NDArray[np.float16]] = {}
        for backbone in self.bundle.manifest.backbones:
            sight = None if look is None else look.sight((backbone, fold), self.number)
            logits[backbone] = self._spread(None if sight is None else sight.logits, np.float32)
            if sight is not None and sight.embeddings is not None:
                embeddings[backbone] = self._spread(sight.embeddings, np.float16)
        return self.bundle.stack.score(self.features, logits, fold, self.patients, embeddings)

    def _spread(self, said: NDArray | None, kind: type) -> NDArray:
        """What was said of the tiles, by row; NaN where there is none."""
        width = () if said is None else said.shape[1:]
        spread = np.full((len(self.seen), *width), np.nan, dtype=kind)
        if said is not None:
            spread[self.seen >= 0] = said[self.seen[self.seen >= 0]]
        return spread


def _without_images(bundle: BundleModels, error: Exception) -> Stack:
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
