"""Estimated time and memory of the configured image training. The speed is that of folds trained
here, else computed.
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
from isic.image.network.catalogue import CATALOGUE, Entry
from isic.image.network.gpu import may_have_gpu
from isic.image.scoring_time import (
    A100,
    FORWARD,
    HIDDEN_ROWS,
    KAGGLE_GPUS,
    T4,
    VIEWS,
    ScoredNetwork,
    Speed,
    kaggle_seconds,
    seconds_per_tile,
    speeds,
)

#: Seconds to start the processes of a fold.
_OVERHEAD = 10.0
#: Gradient checkpointing: share of a batch's activations kept in memory, and factor of training
#: time.
_CHECKPOINTED_MEMORY, _CHECKPOINTED_TIME = 0.3, 4 / 3
#: Weights, gradients and two moments in 4 bytes each, MB per million parameters.
_STATE_MB = 16.0
#: One CPU core: slow arithmetic hides the memory transfers.
_CORE = Speed(0.03, moved=30.0)
#: Seconds to read a tile on a machine with a GPU and on one without.
_READ, _READ_HERE = 1e-4, 1e-3
#: Ratio of a GPU's 32-bit to its 16-bit operations per second; that of a T4.
_SHARE_32 = T4["fp32"].tflops / T4["fp16"].tflops


class Counts(NamedTuple):
    """Lesions and malignant lesions of all folds."""

    lesions: int
    positives: int


#: The official training file.
_OFFICIAL = Counts(401_059, 393)


#: Backbone -> fold -> folder of the trained model, for every backbone and fold in params.yaml.
Models = Mapping[str, Mapping[int, Path]]


def remaining_time(image: Image, models: Models, counts: Counts | None, at_a_time: int = 1) -> str:
    """One phrase: the number of image folds to train and their estimated time on this machine, with
    the embedding of their lesions.

    `counts`: lesions of all folds; None if unknown. `at_a_time`: folds side by side.
    """
    missing = _missing(models)
    total = sum(len(folds) for folds in models.values())
    if not missing:
        return f"all {total} image folds are trained; the rest takes minutes"
    if counts is None:
        return (
            f"{len(missing)} of {total} image folds to train; run `dvc repro folds` for an estimate"
        )
    gpu = _gpu_speeds()
    seconds = sum(_times(image, models, missing, counts, gpu))
    seconds += sum(
        _scoring(image.recipe(name), gpu) * counts.lesions / len(models[name])
        for name, _ in missing
    )
    return (
        f"{len(missing)} of {total} image folds to train: about {duration(seconds / at_a_time)},"
        f" {'one after the other' if at_a_time == 1 else f'{at_a_time} at a time'}"
    )


def estimate_time(
    image: Image, models: Models, counts: Counts | None, backbone: str, fold: int
) -> TimeEstimate:
    """Estimated seconds of training one fold and all other folds that are not trained yet."""
    others = [pair for pair in _missing(models) if pair != (backbone, fold)]
    pairs = [(backbone, fold), *others]
    fold_seconds, *rest = _times(image, models, pairs, counts or _OFFICIAL, _gpu_speeds())
    return TimeEstimate(fold_seconds, sum(rest), len(rest))


def cost_table(image: Image, folds: int, counts: Counts | None) -> Iterator[str]:
    """Estimated memory and time of the backbones of params.yaml for this number of folds, as lines
    of a table.
    """
    counts = counts or _OFFICIAL
    training_positives = counts.positives * (1 - 1 / folds)
    yield (
        f"{'params.yaml':<17}{'model':<18}{'px':>4}{'batch':>7}{'GB':>7}{'A100 a fold':>13}"
        f"{'T4 a fold':>12}{'T4 embeds it':>14}"
    )
    for name in image.backbones:
        recipe = image.recipe(name)
        entry = CATALOGUE.get(recipe.model)
        if entry is None:
            yield f"{name:<17}{recipe.model:<18}not in the catalogue: no estimate"
            continue
        tiles = _tiles_shown(recipe, training_positives)
        hours = [
            duration(tiles * (_per_tile(recipe, gpu["fp16"]) + _READ) + _OVERHEAD)
            for gpu in (A100, T4)
        ]
        batch = f"{recipe.batch_size}x{recipe.accumulate}"
        scoring = seconds_per_tile(_scored(recipe), T4)
        embedding = "-" if scoring is None else duration(scoring * counts.lesions / folds)
        yield (
            f"{name:<17}{recipe.model:<18}{recipe.size or entry.size:>4}{batch:>7}{memory_gb(recipe, entry):>7.1f}"
            f"{hours[0]:>13}{hours[1]:>12}{embedding:>14}"
        )
    yield (
        "Estimates of training memory and time of a fold, "
        f"{training_positives:.0f} of {counts.positives} malignant lesions in training, and of"
        f" scoring its {counts.lesions / folds:,.0f} lesions in fp16."
    )
    hidden = hidden_set_time(image, folds)
    if hidden:
        yield f"Estimate of the {hidden}."


def hidden_set_time(image: Image, folds: int) -> str:
    """One phrase: estimated time of the configured networks for the hidden test set on Kaggle; ""
    where one of them has no constants.
    """
    networks = [_scored(image.recipe(name)) for name in image.backbones] * folds
    seconds = kaggle_seconds(networks)
    if not seconds:
        return ""
    return (
        f"hidden test set: {HIDDEN_ROWS:,} lesions by {len(networks)} networks in fp16 take about"
        f" {duration(seconds * HIDDEN_ROWS)} on {KAGGLE_GPUS} x T4, not measured"
    )


def count_lesions(folds: Path, data: Data) -> Counts | None:
    """Lesions of all folds, from the folds file or the generator's parameters; None if neither
    exists.
    """
    if folds.is_file():
        target = read_parquet(folds, columns=[TARGET])[TARGET]
        return Counts(len(target), int(target.sum()))
    sample = data.sample
    return Counts(sample.lesions, sample.positives) if data.source == "sample" else None


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


def _tiles_shown(recipe: ImageRecipe, positives: float) -> float:
    """Tiles shown in a whole training, given enough negatives; without those of pre-training, whose
    number depends on the sources.
    """
    own = positives * recipe.positive_repeats * (1 + recipe.negatives_per_positive) * recipe.epochs
    return own / (1 - recipe.archive_share) if recipe.archive == "mix" else own


def _missing(models: Models) -> list[tuple[str, int]]:
    pairs = [(name, fold) for name, folds in models.items() for fold in folds]
    return [
        (name, fold) for name, fold in pairs if not (models[name][fold] / "config.json").is_file()
    ]


def _gpu_speeds() -> Mapping[str, Speed] | None:
    """Speeds of this machine's GPU by number format; None without one."""
    if not may_have_gpu():
        return None
    from isic.image.network.device import gpu_tflops

    tflops = gpu_tflops()
    return None if tflops is None else speeds(tflops, tflops * _SHARE_32)


def _times(
    image: Image,
    models: Models,
    pairs: list[tuple[str, int]],
    counts: Counts,
    gpu: Mapping[str, Speed] | None,
) -> list[float]:
    """Estimated seconds of training each (backbone, fold) on this machine."""
    return [_seconds(image.recipe(name), models[name], counts.positives, gpu) for name, _ in pairs]


def _seconds(
    recipe: ImageRecipe,
    folds: Mapping[int, Path],
    positives: int,
    gpu: Mapping[str, Speed] | None,
) -> float:
    shown = _tiles_shown(recipe, positives * (1 - 1 / len(folds)))
    measured = list(_measured_speeds(folds))
    if measured:
        return shown / (sum(measured) / len(measured)) + _OVERHEAD
    read, speed = (_READ_HERE, _CORE) if gpu is None else (_READ, gpu["fp16"])
    return shown * (_per_tile(recipe, speed) + read) + _OVERHEAD


def _scoring(recipe: ImageRecipe, gpu: Mapping[str, Speed] | None) -> float:
    """Estimated seconds of embedding a tile on this machine."""
    seconds = None if gpu is None else seconds_per_tile(_scored(recipe), gpu)
    if seconds is not None:
        return seconds
    read, speed = (_READ_HERE, _CORE) if gpu is None else (_READ, gpu["fp16"])
    return _per_tile(recipe, speed) * FORWARD * VIEWS[recipe.tta] + read


def _scored(recipe: ImageRecipe) -> ScoredNetwork:
    """A recipe's network as a GPU scores it, if its logits are finite in fp16."""
    return ScoredNetwork(recipe.model, recipe.size, "fp16", recipe.tta)


def _per_tile(recipe: ImageRecipe, speed: Speed) -> float:
    """Estimated seconds of training per tile, without reading it."""
    entry = CATALOGUE.get(recipe.model, CATALOGUE["vit_small"])
    factor = _CHECKPOINTED_TIME if recipe.checkpoint_gradients else 1.0
    return entry.seconds_per_tile(recipe.size or entry.size, speed.tflops, speed.moved) * factor


def _measured_speeds(folds: Mapping[int, Path]) -> Iterator[float]:
    """Median tiles per second of each trained fold of a backbone."""
    for folder in folds.values():
        history = folder / "history.csv"
        if history.is_file():
            yield float(pd.read_csv(history)["images_per_second"].median())
