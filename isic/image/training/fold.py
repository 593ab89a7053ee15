"""One image fold of a checkout: reads what training needs and trains, here or in a world that
others started.
"""

from __future__ import annotations

from isic.core.io import read_parquet
from isic.core.params import Params
from isic.core.paths import Layout
from isic.core.schema import ID
from isic.core.tracker import Tracker
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore
from isic.image.console import TimeEstimate
from isic.image.training.parallel import ProcessGroup
from isic.image.training.train import Limits, train_fold


def train_in(
    layout: Layout,
    params: Params,
    backbone: str,
    fold: int,
    tracker: Tracker,
    world: ProcessGroup | None = None,
    estimate: TimeEstimate | None = None,
) -> None:
    """Train `backbone` without `fold` into models/image; `estimate` is printed at the start.

    See `train_fold` for `world` and errors.
    """
    image, recipe = params.image, params.image.recipe(backbone)
    folds = read_parquet(layout.folds)
    diagnoses = None
    if recipe.reads_diagnoses:
        diagnoses = (
            read_metadata(layout.train_metadata, train=True)
            .set_index(ID)
            .loc[folds[ID], "iddx_full"]
        )
    name = f"{backbone}-{fold}"
    train_fold(
        TileStore(layout.train_images),
        folds,
        fold,
        recipe,
        layout.image_model(backbone, fold),
        layout.resume("train_image", name),
        tracker,
        Limits(image.max_hours, image.workers, image.devices, image.cache_gb),
        name,
        diagnoses,
        estimate,
        world,
        backbone,
    )
