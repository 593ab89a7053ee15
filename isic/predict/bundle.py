"""One folder that scores lesions: all folds of all backbones, the stacker, and a manifest of their
inputs.

No pickle: safetensors, LightGBM text, JSON and parquet. `load_bundle(folder).predict(rows, tiles)`
scores; neither mlflow nor dvc is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.code import SCORING_CODE, hash_code
from isic.core.errors import InputError
from isic.core.schema import ID, TARGET
from isic.predict.manifest import read_manifest, refuse_removed, verify
from isic.predict.models import BundleModels
from isic.predict.rows import InMemoryRows, PatientChunks
from isic.predict.scoring import MissingImages, ScoringOptions, score_chunks

if TYPE_CHECKING:
    from isic.data.tiles import TileStore


@dataclass(frozen=True)
class Bundle(BundleModels):
    """A verified bundle folder. Models are loaded at the first prediction."""

    def predict(
        self,
        rows: pd.DataFrame,
        tiles: TileStore | None,
        missing_images: MissingImages = "error",
        folds: Sequence[int] | None = None,
        work: Path | None = None,
        fallback: bool = False,
    ) -> pd.Series:
        """Score of every row, float64 between 0 and 1 by isic_id, in the rows' order; higher is
        more malignant.

        `rows` has the 44 columns of test-metadata.csv and holds all lesions of each patient, since
        a lesion is compared with its patient's others. The score is the mean over the chains of
        `folds` (None: all); with one fold, the rows of that fold get their out-of-fold score. Image
        scores are cached in `work`, from which the same call resumes after a kill. With `fallback`,
        the features-only stacker scores everything, with a warning, when an image model fails as a
        whole. Raises InputError naming the isic_id of a tile that is missing or does not decode,
        unless missing tiles are imputed: such a lesion gets average image scores.
        """
        options = ScoringOptions(missing_images, work, fallback)
        scores = self.predict_chunks(InMemoryRows(rows), tiles, options, folds)
        return pd.Series(scores, index=pd.Index(rows[ID], name=ID), name=TARGET)

    def predict_chunks(
        self,
        chunks: PatientChunks,
        tiles: TileStore | None,
        options: ScoringOptions,
        folds: Sequence[int] | None = None,
    ) -> NDArray[np.float64]:
        """`predict` for tables larger than memory: scores (n,) by row."""
        chosen = self.manifest.folds if folds is None else tuple(folds)
        unknown = [fold for fold in chosen if fold not in self.manifest.folds]
        if unknown or not chosen:
            raise InputError(
                f"{self.folder} has folds {list(self.manifest.folds)}, not {unknown}: choose among"
                " them"
            )
        return score_chunks(self, chunks, tiles, chosen, options)


def load_bundle(folder: Path) -> Bundle:
    """Open a bundle folder after checking every file against its recorded hash.

    Raises InputError when the folder is no bundle, has a newer format, needs a removed feature
    family or embedding mode, or a file is missing or changed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    verify(folder, manifest)
    refuse_removed(folder, manifest)
    if manifest.code_hash != code_hash():
        sys.stderr.write(
            f"isic: note: {folder} was made by other scoring code (commit"
            f" {manifest.git_commit[:8] or 'unknown'}); its scores may differ slightly from its"
            " stored out-of-fold scores\n"
        )
    return Bundle(folder, manifest)


def code_hash() -> str:
    """Hash of the code that turns rows and tiles into scores, as installed."""
    return hash_code(SCORING_CODE)
