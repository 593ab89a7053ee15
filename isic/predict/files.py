"""Scores for any lesions: the one way from files of rows and tiles through a bundle to a file of scores."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from isic.core.io import refuse_output, write_csv
from isic.core.schema import ID, TARGET
from isic.data.patient_chunks import ChunkedTable, open_chunked
from isic.predict.bundle import Bundle, load_bundle
from isic.predict.rows import CHUNK_ROWS
from isic.predict.scoring import MissingImages, ScoringOptions

if TYPE_CHECKING:
    from isic.data.tiles import TileStore

#: From this many lesions on, what image models said is kept until the scores are written.
LONG = 5000


def predict(
    bundle_folder: Path,
    metadata: Path,
    images: Path | None,
    out: Path,
    missing_images: MissingImages = "error",
    fallback: bool = False,
) -> pd.DataFrame:
    """Score the lesions of a metadata CSV with tiles of an HDF5 file and write isic_id, target to `out`.

    A training table is taken too, its
    train-only columns unread. A long run that is killed goes on when called again. With `fallback`, an image model that
    fails as a whole is answered by the features-only stacker and a loud line.
    Raises InputError on anything wrong with the files; then nothing is written.
    """
    started = time.perf_counter()
    refuse_output(Path(out), metadata, images)
    with open_chunked(metadata, CHUNK_ROWS) as rows:
        bundle = load_bundle(bundle_folder)
        scores = score(bundle, rows, images, Path(out), missing_images, fallback)
    write_csv(Path(out), scores)
    drop_work(Path(out))
    if os.environ.get("MLFLOW_RUN_ID"):
        files = {"metadata": str(metadata), "images": str(images), "out": str(out)}
        _track(bundle, files, scores[TARGET], time.perf_counter() - started)
    return scores


def score(
    bundle: Bundle,
    rows: ChunkedTable,
    images: Path | None,
    out: Path,
    missing_images: MissingImages = "error",
    fallback: bool = False,
    folds: Sequence[int] | None = None,
) -> pd.DataFrame:
    """isic_id, target of a table's lesions in the order of the file; the caller writes them to `out`.

    Memory holds one piece and a few bytes for each further lesion. What image models said is kept beside `out` until
    `drop_work`.
    """
    from isic.data.tiles import TileStore

    tiles = None if images is None else TileStore(images)
    if missing_images == "impute" and tiles is not None and bundle.manifest.backbones:
        _tell_missing(rows, tiles)
    work = _work(out) if len(rows.ids) >= LONG else None
    scores = bundle.predict_pieces(rows, tiles, ScoringOptions(missing_images, work, fallback), folds)
    return pd.DataFrame({ID: rows.ids, TARGET: scores})


def _tell_missing(rows: ChunkedTable, tiles: TileStore) -> None:
    missing = sum(name not in tiles for name in rows.ids)
    if missing:
        sys.stderr.write(
            f"isic: note: {missing:,} of {len(rows.ids):,} lesions have no tile: to the image models they count as "
            "average\n"
        )


def drop_work(out: Path) -> None:
    """Remove what was kept to go on after a kill, once `out` is written."""
    shutil.rmtree(_work(out), ignore_errors=True)


def _work(out: Path) -> Path:
    return out.with_name(f".{out.name}.work")


def _track(bundle: Bundle, files: dict[str, str], scores: pd.Series, seconds: float) -> None:
    """What was done, as a run below the one that `mlflow run` opened; by hand, nobody asked for one."""
    from isic.tracking import open_run

    config = {"bundle": bundle.manifest.hash, **files}
    with open_run("predict", config, f"predict-{bundle.manifest.hash[:8]}") as run:
        run.params(config)
        run.metrics({"lesions": len(scores), "seconds": seconds, "mean_score": float(scores.mean())})
