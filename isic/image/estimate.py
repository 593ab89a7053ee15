"""How long the configured image training still takes: by the pace of folds already trained, else by arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from isic.core.io import read_parquet
from isic.core.params import ImageRecipe, Params, load_params
from isic.core.paths import Layout
from isic.core.schema import TARGET
from isic.image.catalogue import CATALOGUE
from isic.image.watch import duration

#: Tera-operations a second that training gets out of one CPU core and of a data-centre GPU, and what a tile costs
#: beside arithmetic (reading it, launching kernels).
_CORE, _GPU = 0.03, 100.0
_CORE_SECONDS, _GPU_SECONDS = 1e-3, 1e-4
#: Starting a training process and scoring its fold.
_OVERHEAD = 10.0


def remaining_hours(layout: Layout) -> str:
    """One phrase: how many image folds are left and about how long they take on this machine."""
    params = load_params(layout.params)
    left = [
        (name, fold)
        for name in params.image.backbones
        for fold in params.folds
        if not (layout.image_model(name, fold) / "config.json").is_file()
    ]
    total = len(params.image.backbones) * len(params.folds)
    if not left:
        return f"all {total} image folds are trained; the rest takes minutes"
    positives = _positives(layout, params)
    if positives is None:
        return f"{len(left)} of {total} image folds to train; how long is known after `dvc repro folds`"
    shown = positives * (1 - 1 / len(params.folds))
    seconds = sum(_seconds(layout, name, params.image.recipe(name), shown) for name, _ in left)
    return f"{len(left)} of {total} image folds to train: about {duration(seconds)}, one after the other"


def _positives(layout: Layout, params: Params) -> int | None:
    """Malignant lesions of all folds, as dealt or as params.yaml asks the generator; None while nobody knows."""
    if layout.folds.is_file():
        return int(read_parquet(layout.folds, columns=[TARGET])[TARGET].sum())
    return params.data.sample.positives if params.data.source == "sample" else None


def tiles_shown(recipe: ImageRecipe, positives: float) -> float:
    """Tiles a whole training shows, as far as there are enough negatives."""
    return positives * recipe.positive_repeats * (1 + recipe.negatives_per_positive) * recipe.epochs


def _seconds(layout: Layout, name: str, recipe: ImageRecipe, positives: float) -> float:
    shown = tiles_shown(recipe, positives)
    paces = list(_paces(layout, name))
    if paces:
        return shown / (sum(paces) / len(paces)) + _OVERHEAD
    from isic.image.device import describe_devices

    gpu = bool(describe_devices())
    entry = CATALOGUE.get(recipe.model, CATALOGUE["vit_small"])
    per_tile = entry.seconds_per_tile(recipe.size or entry.size, _GPU if gpu else _CORE)
    return shown * (per_tile + (_GPU_SECONDS if gpu else _CORE_SECONDS)) + _OVERHEAD


def _paces(layout: Layout, name: str) -> Iterator[float]:
    """Tiles a second of the folds of a backbone that are trained."""
    for path in layout.image_model(name, 0).parent.glob("fold*/history.csv"):
        yield float(pd.read_csv(path)["images_per_second"].median())
