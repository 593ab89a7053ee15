"""Stage `train_image@B-F`: train one backbone on all folds except F and, with `early_stop`, its
validation fold.
"""

import argparse

from isic.core.errors import run
from isic.core.params import load_params
from isic.core.paths import Layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True, help="a key of image.backbones in params.yaml")
    parser.add_argument("--fold", required=True, type=int, help="the fold to leave out")
    options = parser.parse_args()
    layout = Layout.find()
    params = load_params(layout.params)
    config = params.image_config(options.backbone)

    from isic.image.training.fold import train_files
    from isic.scale.estimate import count_lesions, estimate_time
    from isic.tracking import open_run
    from isic.tracking.oof import log_network

    name = f"{options.backbone}-{options.fold}"
    models = layout.image_models(params.image.backbones, params.folds)
    counts = count_lesions(layout.folds, params.data)
    with open_run(f"train_image-{options.backbone}", config, name, options.fold) as tracker:
        estimate = estimate_time(params.image, models, counts, options.backbone, options.fold)
        files = layout.train_files(options.backbone, options.fold, params.data.archive)
        train_files(files, params.image, options.backbone, options.fold, tracker, estimate=estimate)
        log_network(tracker, name, layout.image_model(options.backbone, options.fold))
        tracker.dataset(layout.train_metadata, "train")
        tracker.dataset(layout.train_images, "train")


if __name__ == "__main__":
    run(main)
