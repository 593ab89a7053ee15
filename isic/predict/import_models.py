"""Import image models trained elsewhere into models/image, as the outputs of this checkout's
stages.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from isic.core.errors import InputError
from isic.core.io import atomic_dir, read_json, require, sha256
from isic.core.params import Image, ImageRecipe
from isic.core.paths import Layout
from isic.predict.manifest import FILE, read_manifest, verify

#: Outputs of the stage train_image; a bundle has no learning curve.
_FILES = ("model.safetensors", "config.json", "history.csv")


def import_models(
    source: Path, image: Image, fold_numbers: Sequence[int], folds: Path, out: Path
) -> list[str]:
    """Take the image models of `image.backbones` and `fold_numbers` from `source` into the folder
    `out`; returns the stages to commit, such as train_image@vit-0.

    `source` is a bundle, a checkout, or a folder of BACKBONE/foldN; other backbones are skipped.
    Raises InputError when there is no model to import, a model does not load or is of another fold
    or timm model than params.yaml has, or its folds table is not `folds`. A bundle and a checkout
    record their folds; a bare folder does not.
    """
    if not image.backbones:
        raise InputError("image.backbones in params.yaml is empty: name the backbones to take")
    folds_hash = _folds_hash(source)
    # A model trained on lesions of its own fold would bias every out-of-fold score upwards.
    if folds_hash not in (None, sha256(require(folds, "folds", "run `dvc repro folds`"))):
        raise InputError(
            f"{source} was made on other folds than data/folds.parquet: retrain, or take its"
            " folds too"
        )
    folders = _find_models(source, list(image.backbones), fold_numbers)
    if not folders:
        wanted = ", ".join(image.backbones)
        raise InputError(
            f"{source} has no image models of {wanted} for folds {list(fold_numbers)}: see"
            " params.yaml"
        )
    for (backbone, fold), folder in folders.items():
        _check(folder, image.recipe(backbone), fold)
    for (backbone, fold), folder in folders.items():
        with atomic_dir(out / backbone / f"fold{fold}") as target:
            for name in _FILES:
                if (folder / name).is_file():
                    shutil.copy(folder / name, target / name)
    return [f"train_image@{backbone}-{fold}" for backbone, fold in folders]


def _folds_hash(source: Path) -> str | None:
    """Hash of the folds table of a bundle or checkout, None for a bare folder."""
    if (source / FILE).is_file():
        manifest = read_manifest(source)
        verify(source, manifest)
        return manifest.folds_hash
    folds = Layout(source).folds
    return sha256(folds) if folds.is_file() else None


def _find_models(
    source: Path, backbones: Sequence[str], folds: Sequence[int]
) -> dict[tuple[str, int], Path]:
    """Folders of image models below `source` by (backbone, fold)."""
    roots = [source / "models" / "image", source / "image", source]
    root = next(
        (root for root in roots if any((root / backbone).is_dir() for backbone in backbones)),
        source,
    )
    paths = {
        (backbone, fold): root / backbone / f"fold{fold}"
        for backbone in backbones
        for fold in folds
    }
    return {key: folder for key, folder in paths.items() if folder.is_dir()}


def _check(folder: Path, recipe: ImageRecipe, fold: int) -> None:
    """Raise InputError unless `folder` holds a network of the recipe's timm model trained without
    `fold`.
    """
    from isic.image.network.artifact import CONFIG, load_model
    from isic.image.network.catalogue import resolve

    model = load_model(folder).spec.model
    wanted, _ = resolve(recipe.model, recipe.model_args)
    if model != wanted:
        raise InputError(
            f"{folder} is a `{model}`, params.yaml has `{wanted}` in its place: change one of them"
        )
    # Configs from elsewhere may lack the key; then the fold of the folder's name is used.
    without = read_json(folder / CONFIG).get("fold", fold)
    if without != fold:
        raise InputError(
            f"{folder} was trained without fold {without}, so it saw fold {fold}: put it in"
            f" fold{without}"
        )
