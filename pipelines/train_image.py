"""Stage `train_image@B-F`: one backbone on all folds but F."""

import argparse

from isic.core.errors import run
from isic.core.io import read_parquet
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.core.schema import ID


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True, help="a key of image.backbones in params.yaml")
    parser.add_argument("--fold", required=True, type=int, help="the fold left out")
    wanted = parser.parse_args()
    layout = Layout.find()
    params = load_params(layout.params)
    image, recipe = params.image, params.image.recipe(wanted.backbone)

    from isic.data.tables import read_metadata
    from isic.data.tiles import TileStore
    from isic.image.estimate import outlook
    from isic.image.train import Limits, train_fold
    from isic.tracking import open_run

    folds = read_parquet(layout.folds)
    diagnoses = None
    if recipe.reads_diagnoses:
        diagnoses = read_metadata(layout.train_metadata, train=True).set_index(ID).loc[folds[ID], "iddx_full"]
    name = f"{wanted.backbone}-{wanted.fold}"
    with open_run(f"train_image-{wanted.backbone}", params.learning(wanted.backbone), name, wanted.fold) as tracker:
        train_fold(
            TileStore(layout.train_images),
            folds,
            wanted.fold,
            recipe,
            layout.image_model(wanted.backbone, wanted.fold),
            layout.resume("train_image", name),
            tracker,
            Limits(image.max_hours, image.workers, image.devices, image.cache_gb),
            name,
            diagnoses,
            outlook(layout, wanted.backbone, wanted.fold),
        )


if __name__ == "__main__":
    run(main)
