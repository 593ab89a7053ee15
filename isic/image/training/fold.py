"""One image fold of a checkout: read its inputs and train."""

from __future__ import annotations

from isic.core.errors import InputError
from isic.core.io import read_parquet
from isic.core.params import Image
from isic.core.paths import TrainFiles
from isic.core.schema import ID
from isic.core.tracker import Tracker
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from isic.image.console import TimeEstimate
from isic.image.training.parallel import ProcessGroup
from isic.image.training.train import Limits, stopping_fold, train_fold
from isic.image.training.train_only import read_train_only


def train_files(
    files: TrainFiles,
    image: Image,
    backbone: str,
    fold: int,
    tracker: Tracker,
    processes: ProcessGroup | None = None,
    estimate: TimeEstimate | None = None,
) -> None:
    """Train `backbone` without `fold` into `files.model`; `estimate` is printed at the start.

    See `train_fold` for `processes` and errors.
    """
    recipe = image.recipe(backbone)
    folds = read_parquet(files.folds)
    if fold not in set(folds["fold"]):
        raise InputError(f"{files.folds} has no fold {fold}: see `folds` in params.yaml")
    diagnoses = None
    if recipe.reads_diagnoses:
        metadata = read_metadata(files.metadata, train=True).set_index(ID)
        diagnoses = metadata.loc[folds[ID], "iddx_full"]
    train_only = None
    if recipe.has_train_only:
        stopping = stopping_fold(folds, fold, recipe)
        held_out = [fold] if stopping is None else [fold, stopping]
        train_only = read_train_only(recipe, files.archive, folds, held_out)
        for folder in files.archive if recipe.archive != "none" else ():
            tracker.dataset(folder, "train")

    train_fold(
        TileStore(files.tiles),
        folds,
        fold,
        recipe,
        files.model,
        files.resume,
        tracker,
        Limits(image.max_hours, image.workers, image.devices, image.cache_gb),
        f"{backbone}-{fold}",
        diagnoses,
        estimate,
        processes,
        backbone,
        train_only,
    )
