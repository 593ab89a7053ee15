"""Stage `train_image@B-F`: one backbone on all folds but F, and but the one that it watches with `early_stop`."""

import argparse

from isic.core.errors import run
from isic.core.params import load_params
from isic.core.paths import Layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True, help="a key of image.backbones in params.yaml")
    parser.add_argument("--fold", required=True, type=int, help="the fold left out")
    wanted = parser.parse_args()
    layout = Layout.find()
    params = load_params(layout.params)
    config = params.image_config(wanted.backbone)

    from isic.image.training.fold import train_in
    from isic.scale.estimate import count_positives, estimate_time
    from isic.tracking import open_run

    name = f"{wanted.backbone}-{wanted.fold}"
    models = layout.image_models(params.image.backbones, params.folds)
    positives = count_positives(layout.folds, params.data)
    with open_run(f"train_image-{wanted.backbone}", config, name, wanted.fold) as tracker:
        estimate = estimate_time(params.image, models, positives, wanted.backbone, wanted.fold)
        train_in(layout, params, wanted.backbone, wanted.fold, tracker, estimate=estimate)


if __name__ == "__main__":
    run(main)
