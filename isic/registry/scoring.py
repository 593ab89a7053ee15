"""From rows and tiles to scores by a bundle: the way the out-of-fold scores were made, fold by fold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.schema import ID, PATIENT, TEST_COLUMNS
from isic.data.spool import pack_patients
from isic.data.tables import refuse_gaps
from isic.registry.sight import Look, TileError, look_through

if TYPE_CHECKING:
    from isic.data.tiles import TileStore
    from isic.registry.bundle import Bundle
    from isic.stack import Stack

MissingImages = Literal["error", "impute"]

#: Lesions of a piece: half a minute of a T4 for one image model, so that little is lost by a kill and starting loaders
#: costs little.
PIECE = 16_384
#: Rows that are turned into features and scores at a time, in whole patients: on the way to some 300 columns, a lesion
#: takes 9 KB.
BLOCK = 8_192


class Pieces(Protocol):
    """Lesions in pieces of whole patients, numbered from 0. Frames are indexed by row: 0 to n - 1 over all pieces."""

    @property
    def ids(self) -> pd.Series:
        """isic_id of every row, (n,)."""

    def __len__(self) -> int:
        """Pieces."""

    def piece(self, number: int) -> pd.DataFrame:
        """The columns of test-metadata.csv of one piece."""

    def names(self, number: int) -> pd.Series:
        """Its isic_ids."""


@dataclass(frozen=True)
class Manner:
    """How to go about it. `work`: keep what is done there, to go on after a kill; `fallback`: see `Bundle.predict`."""

    missing_images: MissingImages = "error"
    work: Path | None = None
    fallback: bool = False


class Held:
    """`Pieces` of a frame in memory."""

    def __init__(self, rows: pd.DataFrame) -> None:
        check_rows(rows)
        self._rows = rows.reset_index(drop=True)
        self.ids = self._rows[ID]
        self._blocks = patient_blocks(rows[PATIENT], PIECE)

    def __len__(self) -> int:
        return len(self._blocks)

    def piece(self, number: int) -> pd.DataFrame:
        return self._rows.iloc[self._blocks[number]]

    def names(self, number: int) -> pd.Series:
        return self.ids.iloc[self._blocks[number]]


def score_pieces(
    bundle: Bundle, pieces: Pieces, tiles: TileStore | None, folds: Sequence[int], manner: Manner
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


def patient_blocks(patients: pd.Series, size: int) -> list[NDArray[np.intp]]:
    """Row numbers of blocks of whole patients, each of at most `size` rows unless one patient alone has more."""
    codes, names = pd.factorize(patients, use_na_sentinel=False)
    block = pack_patients(np.bincount(codes, minlength=len(names)), size)[codes]
    return [np.flatnonzero(block == number) for number in np.unique(block)]


def check_rows(rows: pd.DataFrame) -> None:
    """Raise InputError for an empty frame, missing columns, a missing or repeated id, a lesion without patient, or a
    measurement that is missing or infinite.
    """
    missing = [column for column in TEST_COLUMNS if column not in rows.columns]
    if missing:
        raise InputError(f"the metadata lacks {', '.join(missing[:5])}: give all columns of test-metadata.csv")
    if rows.empty:
        raise InputError("the metadata has no rows: give at least one lesion")
    if rows[ID].isna().any() or rows[ID].duplicated().any():
        repeated = rows[ID][rows[ID].duplicated() | rows[ID].isna()].iloc[0]
        raise InputError(f"isic_id {repeated} is missing or repeated in the metadata: keep one row of each")
    # Lesions are judged against their patient's others: those without one would be taken for one person's.
    nobody = rows[PATIENT].isna() | (rows[PATIENT] == "")
    if nobody.any():
        raise InputError(f"lesion {rows[ID][nobody].iloc[0]}: patient_id is missing: give every lesion its patient")
    refuse_gaps(rows, "the metadata")


def find_tiles(pieces: Pieces, tiles: TileStore | None, missing_images: MissingImages) -> NDArray[np.bool_]:
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
    bundle: Bundle,
    folds: Sequence[int],
    tiles: TileStore | None,
    pieces: Pieces,
    present: NDArray[np.bool_],
    manner: Manner,
) -> Look | None:
    """Have the folds' image models look at the tiles, piece by piece; None when there are none."""
    if tiles is None or not present.any():
        return None

    def ids(number: int) -> list[str]:
        names = pieces.names(number)
        return names[present[names.index]].tolist()

    look = Look(bundle.folder, tiles, ids, len(pieces), bundle.stack.uses_embeddings, manner.missing_images == "impute")
    if manner.work is not None:
        look.work = manner.work / look.identity(bundle.manifest.hash)
    look_through(
        look, [(backbone, fold) for backbone in bundle.manifest.backbones for fold in folds], int(present.sum())
    )
    return look


def _add(
    total: NDArray[np.float64],
    bundle: Bundle,
    pieces: Pieces,
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

    bundle: Bundle
    number: int
    patients: pd.Series
    features: pd.DataFrame
    seen: NDArray[np.int64]

    def with_images(self, folds: Sequence[int], look: Look | None) -> NDArray[np.float64]:
        """Sum of the scores (n,) of the folds' chains."""
        return np.sum([self._chain(look, fold) for fold in folds], axis=0)

    def without_images(self, stack: Stack, folds: Sequence[int]) -> NDArray[np.float64]:
        """The same by a stacker that needs no image."""
        return np.sum([stack.score(self.features, {}, fold, self.patients) for fold in folds], axis=0)

    def _chain(self, look: Look | None, fold: int) -> NDArray[np.float64]:
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
