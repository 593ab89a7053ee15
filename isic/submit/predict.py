"""Scores for any lesions: the one way from files of rows and tiles through a bundle to a file of scores."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pandas as pd

from isic.core.errors import InputError
from isic.core.io import write_csv
from isic.core.schema import TARGET, TEST_COLUMNS
from isic.registry.bundle import Bundle, load_bundle
from isic.registry.scoring import MissingImages
from isic.registry.versions import resolve

#: From this many lesions on, what image models said is kept until the scores are written.
LONG = 5000
#: Rows parsed at a time.
PIECE = 20_000


def predict(
    model: str,
    metadata: Path,
    images: Path | None,
    out: Path,
    missing_images: MissingImages = "error",
    fallback: bool = False,
) -> pd.DataFrame:
    """Score the lesions of a metadata CSV with tiles of an HDF5 file and write isic_id, target to `out`.

    `model` is models:/NAME@ALIAS, models:/NAME/VERSION or a bundle folder. A training table is taken too, its
    train-only columns unread. A long run that is killed goes on when called again. With `fallback`, an image model that
    fails as a whole is answered by the features-only stacker and a loud line.
    Raises InputError on anything wrong with the files; then nothing is written.
    """
    started = time.perf_counter()
    rows = read_rows(metadata)
    bundle = load_bundle(resolve(model))
    scores = score_to(bundle, rows, images, Path(out), missing_images, fallback)
    if os.environ.get("MLFLOW_RUN_ID"):
        files = {"metadata": str(metadata), "images": str(images), "out": str(out)}
        _track(bundle, files, scores[TARGET], time.perf_counter() - started)
    return scores


def score_to(
    bundle: Bundle,
    rows: pd.DataFrame,
    images: Path | None,
    out: Path,
    missing_images: MissingImages = "error",
    fallback: bool = False,
) -> pd.DataFrame:
    """`predict` with bundle and rows at hand."""
    from isic.data.tiles import TileStore

    tiles = None if images is None else TileStore(images)
    work = out.with_name(f".{out.name}.work") if len(rows) >= LONG else None
    scores = bundle.predict(rows, tiles, missing_images, work=work, fallback=fallback).reset_index()
    write_csv(out, scores)
    if work is not None:
        shutil.rmtree(work, ignore_errors=True)
    return scores


def read_rows(metadata: Path) -> pd.DataFrame:
    """The 44 test columns of a metadata CSV, official test or training form.

    Read in pieces: the parser's buffers for the whole file would take four times the memory of the frame.
    """
    from isic.data.tables import metadata_chunks

    pieces = metadata_chunks(metadata, _has_target(metadata), PIECE)
    return pd.concat([piece[list(TEST_COLUMNS)] for piece in pieces], ignore_index=True)


def _has_target(metadata: Path) -> bool:
    try:
        with Path(metadata).open(encoding="utf-8") as stream:
            return TARGET in stream.readline().strip().split(",")
    except FileNotFoundError as error:
        raise InputError(f"{metadata} not found: name a CSV with the columns of test-metadata.csv") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{metadata} is not a text file: name a CSV with the columns of test-metadata.csv") from error


def _track(bundle: Bundle, files: dict[str, str], scores: pd.Series, seconds: float) -> None:
    """What was done, as a run below the one that `mlflow run` opened; by hand, nobody asked for one."""
    from isic.tracking import open_run

    config = {"bundle": bundle.manifest.hash, **files}
    with open_run("predict", config, f"predict-{bundle.manifest.hash[:8]}") as run:
        run.params(config)
        run.metrics({"lesions": len(scores), "seconds": seconds, "mean_score": float(scores.mean())})
