"""`make fold` and `make backbone`: train and embed one fold, or all folds, of one backbone, without
other stages.

Names are checked first, because `dvc repro` succeeds when a pattern matches no stage.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from isic.core.errors import InputError, run
from isic.core.params import Image, load_params
from isic.core.paths import Layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", required=True, help="a key of image.backbones in params.yaml")
    parser.add_argument(
        "--fold", help="one of folds in params.yaml; default: all, one after the other"
    )
    options = parser.parse_args()
    params = load_params(Layout.find().params)
    stages = stages_of(params.image, params.folds, options.backbone, options.fold)
    # Replaces this process, so that DVC receives signals and sets the exit status.
    os.execv(sys.executable, [sys.executable, "-m", "dvc", "repro", "--single-item", *stages])


def stages_of(image: Image, folds: Sequence[int], backbone: str, fold: str | None) -> list[str]:
    """Stages that train and embed a fold, or all folds if `fold` is None.

    Raises InputError for a backbone or fold that params.yaml does not have.
    """
    if not backbone:
        known = ", ".join(image.backbones) or "nothing"
        raise InputError(f"B is missing: add B=NAME; in params.yaml image.backbones has {known}")
    image.recipe(backbone)
    known_folds = [str(known) for known in folds]
    if fold is not None and fold not in known_folds:
        problem = (
            f"no fold `{fold}` in params.yaml:"
            if fold
            else "F is missing: add F=NUMBER; in params.yaml"
        )
        raise InputError(f"{problem} folds has {', '.join(known_folds)}")
    # Fold by fold: an interruption leaves one fold unfinished.
    chosen = known_folds if fold is None else [fold]
    return [f"{stage}@{backbone}-{name}" for name in chosen for stage in ("train_image", "embed")]


if __name__ == "__main__":
    run(main)
