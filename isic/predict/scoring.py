"""Scores of rows and tiles by a bundle, computed fold by fold as the out-of-fold scores were."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError, printable
from isic.core.schema import PATIENT
from isic.predict.image_scores import ImageScoringJob, TileError, score_images
from isic.predict.models import BundleModels
from isic.predict.rows import PatientChunks, patient_blocks

if TYPE_CHECKING:
    from isic.data.tiles import TileStore
    from isic.stack import Stack

MissingImages = Literal["error", "impute"]

#: Rows, in whole patients, whose features are in memory at a time: building some 300 columns takes
#: 9 KB a lesion.
BLOCK = 8_192
#: Most unknown values of a category that a warning names.
_SHOWN = 3


@dataclass(frozen=True)
class ScoringOptions:
    """Scoring options. `work`: folder of cached image scores; `fallback`: see `Bundle.predict`;
    `warn`: warn of patients and categories unlike those in training.
    """

    missing_images: MissingImages = "error"
    work: Path | None = None
    fallback: bool = False
    warn: bool = True


@dataclass
class _Observed:
    """Of all rows: the patients' numbers of lesions, and `Encoder.unknown`."""

    sizes: list[int] = field(default_factory=list)
    unknown: Counter[tuple[str, str]] = field(default_factory=Counter)


def score_chunks(
    bundle: BundleModels,
    chunks: PatientChunks,
    tiles: TileStore | None,
    folds: Sequence[int],
    options: ScoringOptions,
) -> NDArray[np.float64]:
    """Scores (n,) by row; see `Bundle.predict`. Memory holds one chunk and, without a work folder,
    all image scores.
    """
    if not bundle.manifest.backbones:
        # Without image models no tile is read, so none can be missing.
        tiles, options = None, replace(options, missing_images="impute")
    has_tile = _find_tiles(chunks, tiles, options.missing_images)
    total = np.zeros(len(has_tile))
    observed = _Observed()
    # Without files, embeddings of all folds at once would fill the memory.
    one_fold_at_a_time = bundle.stack.uses_embeddings and options.work is None

    for group in [[fold] for fold in folds] if one_fold_at_a_time else [folds]:
        try:
            job = _score_tiles(bundle, group, tiles, chunks, has_tile, options)
        except TileError:
            raise
        except Exception as error:
            if not options.fallback:
                raise
            stack = _without_images(bundle, error)
            total[:] = 0.0
            observed = _add_scores(
                total,
                bundle,
                chunks,
                has_tile,
                partial(_Block.without_images, stack=stack, folds=folds),
            )
            break
        observed = _add_scores(
            total, bundle, chunks, has_tile, partial(_Block.with_images, folds=group, job=job)
        )

    if options.warn:
        _warn_of_small_patients(bundle, observed.sizes)
        _warn_of_unknown_values(observed.unknown)
    scores = total / len(folds)
    if not np.isfinite(scores).all():
        isic_id = chunks.ids[~np.isfinite(scores)].iloc[0]
        raise InputError(
            f"{bundle.folder} gives lesion {isic_id} a score that is not finite: do not use it"
        )
    return scores


def _warn_of_small_patients(bundle: BundleModels, sizes: Sequence[int]) -> None:
    """Warn if most patients have fewer lesions than 95 % of those in training."""
    known = bundle.oof().groupby(PATIENT).size()
    usual = int(np.ceil(known.quantile(0.05)))
    small = sum(size < usual for size in sizes)
    if small > len(sizes) / 2:
        sys.stderr.write(
            f"isic: warning: {small} of {len(sizes)} patients have fewer than {usual} lesions, unlike"
            " 95 % of those in training: scores compare a lesion with its patient's others. Give all"
            f" lesions of a patient{'' if bundle.stack.thinned else ', or train with `stack.thinned: true`'}\n"
        )


def _warn_of_unknown_values(unknown: Counter[tuple[str, str]]) -> None:
    """Warn of categories that training lacked, such as `Male` for `male`: they count as missing."""
    for name in dict.fromkeys(column for column, _ in unknown):
        counts = {value: count for (column, value), count in unknown.items() if column == name}
        shown = ", ".join(f"'{printable(value, 40)}'" for value in [*counts][:_SHOWN])
        more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
        sys.stderr.write(
            f"isic: warning: lesions whose `{name}` is {shown}{more}: {sum(counts.values()):,}; no"
            " lesion in training had this, so it counts as missing\n"
        )


def _find_tiles(
    chunks: PatientChunks, tiles: TileStore | None, missing_images: MissingImages
) -> NDArray[np.bool_]:
    """Mask (n,) of the rows whose lesion has a tile.

    Raises InputError naming the first lesion without one, unless missing tiles are imputed.
    """
    has_tile = np.fromiter(
        (tiles is not None and isic_id in tiles for isic_id in chunks.ids), bool, len(chunks.ids)
    )
    if tiles is not None and not has_tile.any():
        raise InputError(
            f"{tiles.path} has no image for any of the {len(has_tile)} lesions, it is another"
            " table's: give its own images, or none and --missing-images impute"
        )
    if missing_images == "error" and not has_tile.all():
        isic_id = chunks.ids[~has_tile].iloc[0]
        where = "no image file was given" if tiles is None else f"{tiles.path} has no image for it"
        raise InputError(
            f"lesion {isic_id}: {where} ({int((~has_tile).sum())} of {len(has_tile)} lesions have"
            " none); add the images or use --missing-images impute"
        )
    return has_tile


def _score_tiles(
    bundle: BundleModels,
    folds: Sequence[int],
    tiles: TileStore | None,
    chunks: PatientChunks,
    has_tile: NDArray[np.bool_],
    options: ScoringOptions,
) -> ImageScoringJob | None:
    """Score the tiles by the folds' image models, chunk by chunk; None when there are no tiles."""
    if tiles is None or not has_tile.any():
        return None

    def ids_with_tile(index: int) -> list[str]:
        ids = chunks.chunk_ids(index)
        return ids[has_tile[ids.index]].tolist()

    job = ImageScoringJob(
        folder=bundle.folder,
        tiles=tiles,
        chunk_ids=ids_with_tile,
        chunks=len(chunks),
        embeddings=bundle.stack.uses_embeddings,
        impute_broken=options.missing_images == "impute",
    )
    if options.work is not None:
        job.work = options.work / job.identity(bundle.manifest.hash)
    keys = [(backbone, fold) for backbone in bundle.manifest.backbones for fold in folds]
    score_images(job, keys, int(has_tile.sum()))
    return job


def _add_scores(
    total: NDArray[np.float64],
    bundle: BundleModels,
    chunks: PatientChunks,
    has_tile: NDArray[np.bool_],
    score: Callable[[_Block], NDArray[np.float64]],
) -> _Observed:
    """Add the result of `score` to every row's total, block by block."""
    from isic.tabular import build_features

    observed = _Observed()
    for index in range(len(chunks)):
        rows = chunks.chunk(index)
        row = rows.index.to_numpy()
        tile = np.where(has_tile[row], np.cumsum(has_tile[row]) - 1, -1)
        for block in patient_blocks(rows[PATIENT], BLOCK):
            patients = rows.iloc[block]
            observed.sizes += patients.groupby(PATIENT, observed=True).size().tolist()
            features = build_features(
                patients, list(bundle.manifest.families), bundle.manifest.older_ranks
            )
            observed.unknown.update(bundle.stack.encoder.unknown(features))
            total[row[block]] += score(
                _Block(bundle, index, patients[PATIENT], features, tile[block])
            )
            del features  # frees them before the next block's are built
    return observed


@dataclass(frozen=True)
class _Block:
    """Whole patients of a chunk: by lesion (n,) patient, features, and index among the chunk's
    tiles (-1: none).
    """

    bundle: BundleModels
    chunk: int
    patients: pd.Series
    features: pd.DataFrame
    tile: NDArray[np.int64]

    def with_images(self, folds: Sequence[int], job: ImageScoringJob | None) -> NDArray[np.float64]:
        """Sum of the scores (n,) of the folds' chains."""
        return np.sum([self._chain(job, fold) for fold in folds], axis=0)

    def without_images(self, stack: Stack, folds: Sequence[int]) -> NDArray[np.float64]:
        """Sum of the scores (n,) of the folds' chains of a features-only stacker."""
        return np.sum(
            [stack.score(self.features, {}, fold, self.patients) for fold in folds], axis=0
        )

    def _chain(self, job: ImageScoringJob | None, fold: int) -> NDArray[np.float64]:
        """Scores (n,) of one fold's chain; image scores are NaN where there is no tile."""
        logits: dict[str, NDArray[np.float32]] = {}
        embeddings: dict[str, NDArray[np.float16]] = {}
        for backbone in self.bundle.manifest.backbones:
            scores = None if job is None else job.load((backbone, fold), self.chunk)
            logits[backbone] = self._by_row(None if scores is None else scores.logits, np.float32)
            if scores is not None and scores.embeddings.shape[1]:
                embeddings[backbone] = self._by_row(scores.embeddings, np.float16)
        return self.bundle.stack.score(self.features, logits, fold, self.patients, embeddings)

    def _by_row(self, values: NDArray | None, dtype: type) -> NDArray:
        """Values of the chunk's tiles by row of the block; NaN where there is no tile."""
        shape = () if values is None else values.shape[1:]
        by_row = np.full((len(self.tile), *shape), np.nan, dtype=dtype)
        if values is not None:
            by_row[self.tile >= 0] = values[self.tile[self.tile >= 0]]
        return by_row


def _without_images(bundle: BundleModels, error: Exception) -> Stack:
    """The features-only stacker, after a warning; InputError where the bundle has none."""
    stack = bundle.features_only
    if stack is None:
        raise InputError(
            f"{bundle.folder} has no features-only stacker to fall back on: build it again"
        ) from error
    reason = " ".join(str(error).split())[:200]
    sys.stderr.write(
        "isic: WARNING: AN IMAGE MODEL FAILED AND NO IMAGE WAS USED. Every score comes from the"
        f" features-only stacker, which is worse ({type(error).__name__}: {reason})\n"
    )
    return stack
