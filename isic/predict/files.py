"""Score a metadata table and its tiles by a bundle, and write a CSV of scores."""

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
from isic.core.locks import alone
from isic.core.schema import ID, TARGET
from isic.data.patient_chunks import ChunkedTable, open_chunked
from isic.predict.bundle import Bundle, load_bundle
from isic.predict.rows import CHUNK_ROWS
from isic.predict.scoring import MissingImages, ScoringOptions

if TYPE_CHECKING:
    from isic.data.tiles import TileStore

#: From this many lesions on, image scores are cached on disk until the scores are written.
LONG = 5000


def predict(
    bundle_folder: Path,
    metadata: Path,
    images: Path | None,
    out: Path,
    missing_images: MissingImages = "error",
    fallback: bool = False,
) -> pd.DataFrame:
    """Score the lesions of a metadata table, CSV or parquet, and write isic_id, target to `out`.

    `images`: HDF5 file, or folder or zip archive of JPEGs.
    Train-only columns are not read. A long run that was killed resumes when called again.
    `missing_images` and `fallback` as in `Bundle.predict`. Raises InputError on anything wrong with
    the files; then nothing is written.
    """
    started = time.perf_counter()
    refuse_output(Path(out), metadata, images, bundle_folder)
    with alone(Path(out)):
        with open_chunked(metadata, CHUNK_ROWS) as rows:
            bundle = load_bundle(bundle_folder)
            scores = score(bundle, rows, images, Path(out), missing_images, fallback)
        write_csv(Path(out), scores)
        drop_work(Path(out))
    if os.environ.get("MLFLOW_RUN_ID"):
        files = {"metadata": str(metadata), "images": str(images), "out": str(out)}
        _log_run(bundle, files, scores[TARGET], time.perf_counter() - started)
    return scores


def score(
    bundle: Bundle,
    rows: ChunkedTable,
    images: Path | None,
    out: Path,
    missing_images: MissingImages = "error",
    fallback: bool = False,
    folds: Sequence[int] | None = None,
    warn: bool = True,
) -> pd.DataFrame:
    """isic_id, target of a table's lesions in the order of the file. The caller writes them to
    `out`.

    Memory holds one chunk and a few bytes for each further lesion. Image scores are cached beside
    `out` until `drop_work`.
    """
    from isic.data.image_files import open_images

    tiles = None if images is None else open_images(images)
    if missing_images == "impute" and tiles is not None and bundle.manifest.backbones:
        _note_missing(rows, tiles)
    work = _work(out) if len(rows.ids) >= LONG else None
    scores = bundle.predict_chunks(
        rows, tiles, ScoringOptions(missing_images, work, fallback, warn), folds
    )
    return pd.DataFrame({ID: rows.ids, TARGET: scores})


def _note_missing(rows: ChunkedTable, tiles: TileStore) -> None:
    missing = sum(isic_id not in tiles for isic_id in rows.ids)
    if missing:
        sys.stderr.write(
            f"isic: note: {missing:,} of {len(rows.ids):,} lesions have no tile: they get average"
            " image scores\n"
        )


def drop_work(out: Path) -> None:
    """Remove the cached image scores of `out` once it is written."""
    shutil.rmtree(_work(out), ignore_errors=True)


def _work(out: Path) -> Path:
    return out.with_name(f".{out.name}.work")


def _log_run(bundle: Bundle, files: dict[str, str], scores: pd.Series, seconds: float) -> None:
    """Log a child run of the run that `mlflow run` opened. Other predictions are not logged."""
    from isic.tracking import open_run

    config = {"bundle": bundle.manifest.hash, **files}
    with open_run("predict", config, f"predict-{bundle.manifest.hash[:8]}") as run:
        run.params(config)
        run.metrics(
            {"lesions": len(scores), "seconds": seconds, "mean_score": float(scores.mean())}
        )
