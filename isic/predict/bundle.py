"""One folder that scores lesions: all folds of all backbones, the stacker, and what they were made from.

No pickle: safetensors, LightGBM text, JSON and parquet. `load_bundle(folder).predict(rows, tiles)` is all it takes, and
it needs neither mlflow nor dvc.
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
from isic.predict.scoring import MissingImages, ScoringOptions, score_pieces

if TYPE_CHECKING:
    from isic.data.tiles import TileStore


@dataclass(frozen=True)
class Bundle(BundleModels):
    """A verified bundle folder. Models are read at the first prediction."""

    def predict(
        self,
        rows: pd.DataFrame,
        tiles: TileStore | None,
        missing_images: MissingImages = "error",
        folds: Sequence[int] | None = None,
        work: Path | None = None,
        fallback: bool = False,
    ) -> pd.Series:
        """Score of every row, float64 between 0 and 1 by isic_id, in the rows' order; higher is more malignant.

        `rows` has the 44 columns of test-metadata.csv and holds all of each patient's lesions, since a lesion is
        judged against the others. Each fold's chain scores what it scores in training, and the mean of the chains
        (`folds` None: all) is the score; with one fold, that fold's rows get their out-of-fold score. What was done
        is kept in `work`, so that the same call after a kill goes on. With `fallback`, an image model that fails as a
        whole is answered by the features-only stacker and a loud line.
        Raises InputError naming the id of a tile that is missing or does not decode, unless missing tiles are to be
        imputed: such a lesion counts as average in the image models' eyes.
        """
        scores = self.predict_pieces(InMemoryRows(rows), tiles, ScoringOptions(missing_images, work, fallback), folds)
        return pd.Series(scores, index=pd.Index(rows[ID], name=ID), name=TARGET)

    def predict_pieces(
        self, pieces: PatientChunks, tiles: TileStore | None, manner: ScoringOptions, folds: Sequence[int] | None = None
    ) -> NDArray[np.float64]:
        """`predict` for lesions that need not all be in memory: scores (n,) by row."""
        chosen = self.manifest.folds if folds is None else tuple(folds)
        unknown = [fold for fold in chosen if fold not in self.manifest.folds]
        if unknown or not chosen:
            raise InputError(f"{self.folder} has folds {list(self.manifest.folds)}, not {unknown}: choose among them")
        return score_pieces(self, pieces, tiles, chosen, manner)


def load_bundle(folder: Path) -> Bundle:
    """Open a bundle folder after checking every file against its recorded hash.

    Raises InputError when the folder is no bundle, is of a newer format, needs a removed feature family or embedding
    mode, or a file is missing or changed.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    verify(folder, manifest)
    refuse_removed(folder, manifest)
    if manifest.code_hash != code_hash():
        sys.stderr.write(
            f"isic: note: {folder} was made by other scoring code (commit {manifest.git_commit[:8] or 'unknown'}); "
            "its scores may differ slightly from those it was judged by\n"
        )
    return Bundle(folder, manifest)


def code_hash() -> str:
    """Hash of the code that turns rows and tiles into scores, as installed."""
    return hash_code(SCORING_CODE)
