"""`make fold` and `make backbone`: one fold, or all folds, of one backbone, with nothing before or after them.

Names are checked first: `dvc repro` calls it up to date when a pattern matches no stage.
"""

import argparse
import os
import sys

from isic.core.errors import InputError, run
from isic.core.params import Params, load_params
from isic.core.paths import Layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True, help="a key of image.backbones in params.yaml")
    parser.add_argument("--fold", help="one of folds in params.yaml; without it all of them, one after the other")
    wanted = parser.parse_args()
    stages = stages_of(load_params(Layout.find().params), wanted.backbone, wanted.fold)
    # In place of this process, so that signals and the exit status are DVC's own.
    os.execv(sys.executable, [sys.executable, "-m", "dvc", "repro", "--single-item", *stages])


def stages_of(params: Params, backbone: str, fold: str | None) -> list[str]:
    """Stages that train and embed these folds; InputError for what params.yaml does not name."""
    if not backbone:
        known = ", ".join(params.image.backbones) or "nothing"
        raise InputError(f"B is missing: add B=NAME; in params.yaml image.backbones has {known}")
    params.image.recipe(backbone)
    folds = [str(number) for number in params.folds]
    if fold is not None and fold not in folds:
        said = f"no fold `{fold}` in params.yaml:" if fold else "F is missing: add F=NUMBER; in params.yaml"
        raise InputError(f"{said} folds has {', '.join(folds)}")
    # Fold by fold: what a session leaves unfinished is one fold.
    chosen = folds if fold is None else [fold]
    return [f"{stage}@{backbone}-{number}" for number in chosen for stage in ("train_image", "embed")]


if __name__ == "__main__":
    run(main)
