"""Estimated time and memory of the configured image training: from the speed of trained folds, else
computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from isic.core.io import read_parquet
from isic.core.params import Data, Image, ImageRecipe
from isic.core.schema import TARGET
from isic.image.console import TimeEstimate, duration
from isic.image.network.catalogue import CATALOGUE, MOVED, Entry

#: Seconds to start a training process and score its fold.
_OVERHEAD = 10.0
#: Tera-operations a second of the two GPUs most often rented or lent (`device.effective_tflops`).
_A100, _T4 = 100.0, 18.0
#: Gradient checkpointing: share of a batch's activations kept in memory, and factor of training
#: time.
_CHECKPOINTED_MEMORY, _CHECKPOINTED_TIME = 0.3, 4 / 3
#: Weights, gradients and two moments in 4 bytes each, MB per million parameters.
_STATE_MB = 16.0
#: Malignant lesions of the official training file.
_OFFICIAL_POSITIVES = 393


class Speed(NamedTuple):
    """Tera-operations a second, operations per moved value (`catalogue.MOVED`), further seconds per
    tile.
    """

    tflops: float
    moved: float = MOVED
    seconds: float = 1e-4


#: One CPU core: slow arithmetic hides the memory transfers.
_CORE = Speed(0.03, moved=30.0, seconds=1e-3)


#: Folder of the trained model by backbone and fold, of every backbone and fold in params.yaml.
Models = Mapping[str, Mapping[int, Path]]


def remaining_time(image: Image, models: Models, positives: int | None) -> str:
    """One phrase: the number of image folds to train and their estimated time on this machine.

    `positives` counts the malignant lesions of all folds; None if unknown.
    """
    missing = _missing(models)
    total = sum(len(folds) for folds in models.values())
    if not missing:
        return f"all {total} image folds are trained; the rest takes minutes"
    if positives is None:
        return (
            f"{len(missing)} of {total} image folds to train; run `dvc repro folds` for an estimate"
        )
    seconds = sum(_times(image, models, missing, positives))
    return (
        f"{len(missing)} of {total} image folds to train: about {duration(seconds)}, one after the"
        " other"
    )


def estimate_time(
    image: Image, models: Models, positives: int | None, backbone: str, fold: int
) -> TimeEstimate:
    """Estimated seconds of one fold and of all other folds that are not trained yet."""
    others = [pair for pair in _missing(models) if pair != (backbone, fold)]
    pairs = [(backbone, fold), *others]
    fold_seconds, *rest = _times(image, models, pairs, positives or _OFFICIAL_POSITIVES)
    return TimeEstimate(fold_seconds, sum(rest), len(rest))


def cost_table(image: Image, folds: int, positives: int | None) -> Iterator[str]:
    """Estimated memory and time of the backbones of params.yaml for this number of folds, as lines
    of a table.
    """
    positives = positives or _OFFICIAL_POSITIVES
    training_positives = positives * (1 - 1 / folds)
    yield (
        f"{'params.yaml':<17}{'model':<18}{'px':>4}{'batch':>7}{'GB':>7}{'A100 a fold':>13}{'T4 a fold':>12}"
    )
    for name in image.backbones:
        recipe = image.recipe(name)
        entry = CATALOGUE.get(recipe.model)
        if entry is None:
            yield f"{name:<17}{recipe.model:<18}not in the catalogue: no estimate"
            continue
        tiles = tiles_shown(recipe, training_positives)
        hours = [
            duration(tiles * _per_tile(recipe, Speed(tflops)) + _OVERHEAD)
            for tflops in (_A100, _T4)
        ]
        batch = f"{recipe.batch_size}x{recipe.accumulate}"
        yield (
            f"{name:<17}{recipe.model:<18}{recipe.size or entry.size:>4}{batch:>7}{memory_gb(recipe, entry):>7.1f}"
            f"{hours[0]:>13}{hours[1]:>12}"
        )
    yield (
        "Estimates of training memory and time of a fold, "
        f"{training_positives:.0f} of {positives} malignant lesions in training."
    )


def count_positives(folds: Path, data: Data) -> int | None:
    """Malignant lesions of all folds, from the folds file or the generator's parameters; None if
    neither exists.
    """
    if folds.is_file():
        return int(read_parquet(folds, columns=[TARGET])[TARGET].sum())
    return data.sample.positives if data.source == "sample" else None


def memory_gb(recipe: ImageRecipe, entry: Entry) -> float:
    """Estimated GPU memory of training, GB."""
    area = ((recipe.size or entry.size) / entry.size) ** 2
    kept = (
        entry.memory_mb
        * area
        * recipe.batch_size
        * (_CHECKPOINTED_MEMORY if recipe.checkpoint_gradients else 1)
    )
    return (kept + entry.parameters_m * (_STATE_MB + (4.0 if recipe.ema else 0.0))) / 1e3


def tiles_shown(recipe: ImageRecipe, positives: float) -> float:
    """Tiles that a whole training shows, given enough negatives."""
    return positives * recipe.positive_repeats * (1 + recipe.negatives_per_positive) * recipe.epochs


def _missing(models: Models) -> list[tuple[str, int]]:
    pairs = [(name, fold) for name, folds in models.items() for fold in folds]
    return [
        (name, fold) for name, fold in pairs if not (models[name][fold] / "config.json").is_file()
    ]


def _times(
    image: Image, models: Models, pairs: list[tuple[str, int]], positives: int
) -> list[float]:
    """Estimated seconds of each (backbone, fold) on this machine; `positives` counts those of all
    folds.
    """
    from isic.image.network.device import gpu_tflops

    tflops = gpu_tflops()
    speed = _CORE if tflops is None else Speed(tflops)
    return [_seconds(image.recipe(name), models[name], positives, speed) for name, _ in pairs]


def _seconds(recipe: ImageRecipe, folds: Mapping[int, Path], positives: int, speed: Speed) -> float:
    shown = tiles_shown(recipe, positives * (1 - 1 / len(folds)))
    measured = list(_measured_speeds(folds))
    if measured:
        return shown / (sum(measured) / len(measured)) + _OVERHEAD
    return shown * _per_tile(recipe, speed) + _OVERHEAD


def _per_tile(recipe: ImageRecipe, speed: Speed) -> float:
    entry = CATALOGUE.get(recipe.model, CATALOGUE["vit_small"])
    factor = _CHECKPOINTED_TIME if recipe.checkpoint_gradients else 1.0
    return (
        entry.seconds_per_tile(recipe.size or entry.size, speed.tflops, speed.moved) * factor
        + speed.seconds
    )


def _measured_speeds(folds: Mapping[int, Path]) -> Iterator[float]:
    """Median tiles a second of each trained fold of a backbone."""
    for folder in folds.values():
        history = folder / "history.csv"
        if history.is_file():
            yield float(pd.read_csv(history)["images_per_second"].median())
