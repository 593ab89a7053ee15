"""Fitting the stacker: members over libraries, seeds and samples of benign rows, for each fold on
the other folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from isic.core.early_stopping import early_stopping_fold
from isic.core.metric import Floats, auc, pauc
from isic.core.parallel import workers
from isic.core.params import StackSettings
from isic.core.schema import TARGET
from isic.stack.blend import Blend, find_weights, make_reference, rank
from isic.stack.image_columns import Embeddings
from isic.stack.members import EarlyStopping, MemberTask, library, log_odds
from isic.stack.model import Chain, Stack, probabilities
from isic.stack.training_data import (
    Anchors,
    TrainingData,
    build_training_data,
    drop_families,
    sample_rows,
)
from isic.tabular.fitted import Fitted

#: Benign lesions for each malignant one among the rows used for early stopping.
_WATCHED = 50
#: Log-odds of each library's members for every row, out of fold.
_ByLibrary = dict[str, Floats]


def fit_stack(
    features: pd.DataFrame,
    logits: Mapping[str, ArrayLike],
    folds: pd.DataFrame,
    settings: StackSettings,
    embeddings: Embeddings | None = None,
    anchors: Anchors | None = None,
    thinned: pd.DataFrame | None = None,
) -> Stack:
    """Fit one chain per fold and score every row out of fold.

    features: isic_id and feature columns, (n) rows. logits: {backbone: raw out-of-fold logits
    (n,)}, and embeddings {backbone: (n, d)} if `settings.images.embeddings` is not "none", in the
    same order; `anchors` where it is "aligned". folds: isic_id, patient_id, target, fold of the
    same lesions in any order. thinned: the features that members train on, of the same lesions
    within parts of their patients (None: `features`). The same input gives the same bytes. Raises InputError when the
    frames do not hold the same lesions, or a logit is missing.
    """
    data = build_training_data(
        features,
        logits,
        folds,
        settings.images,
        settings.params.max_bin,
        embeddings,
        anchors,
        settings.fitted,
        thinned,
    )
    return fit_training_data(data, settings)


def fit_training_data(data: TrainingData, settings: StackSettings, first_seed: int = 0) -> Stack:
    """`fit_stack` on prepared inputs without the families of `settings.drop`; the first member of a
    library has seed `first_seed`.
    """
    data = drop_families(data, settings.drop)
    chains, score, optimism, by_seed = out_of_fold(data, settings, first_seed)
    # The gate needs each seed's log-odds: two stacks of one recipe differ by their seeds.
    seeds = {f"seed_{item}": values for item, values in enumerate(by_seed)}
    oof = data.folds.assign(score=score, **seeds)
    metrics = _fold_metrics(oof) | ({"blend_optimism": optimism} if optimism is not None else {})
    return Stack(data.encoder, chains, data.all_families(), oof, metrics)


def out_of_fold(
    data: TrainingData, settings: StackSettings, first_seed: int = 0
) -> tuple[dict[int, Chain], Floats, float | None, NDArray[np.float32]]:
    """Chains of the folds in `data.images`, the scores of these folds' rows (others NaN), the
    blend's optimism, and the log-odds (seeds, n) of each seed's members alone.
    """
    members = _train_all(data, settings, first_seed)
    held_out = {fold: np.flatnonzero(data.fold == fold) for fold in data.images}
    seed_margins = _held_out_margins(data, members, held_out)
    margins = {name: values.mean(axis=0) for name, values in seed_margins.items()}
    blends, optimism = _blends(data, margins, held_out, settings)
    chains = {
        fold: Chain(
            data.images[fold],
            members[fold],
            blends[fold],
            offset(data, fold, settings),
            data.fitted.get(fold, Fitted({})),
        )
        for fold in held_out
    }
    score = np.full(len(data.fold), np.nan)
    by_seed = np.full((settings.seeds, len(data.fold)), np.nan, np.float32)
    for fold, index in held_out.items():
        score[index] = probabilities(
            chains[fold], {name: values[index] for name, values in margins.items()}
        )
        for seed in range(settings.seeds):
            by_seed[seed, index] = blends[fold](
                {name: values[seed, index] for name, values in seed_margins.items()}
            )
    return chains, score, optimism, by_seed


def offset(data: TrainingData, fold: int, settings: StackSettings) -> float:
    """See `TrainingData.offset`. The first library's parameter gives the weight of malignant rows."""
    weight = settings.library(settings.members[0])["params"].get("scale_pos_weight", 1.0)
    return data.offset(fold, settings.negatives, float(weight))


def _fold_metrics(oof: pd.DataFrame) -> dict[str, Any]:
    """pAUC and AUC pooled and per fold, with the folds' mean and standard deviation (pAUC is not
    additive).
    """
    records = []
    for fold, part in oof.groupby("fold"):
        values = {
            "pauc": pauc(part[TARGET], part["score"]),
            "auc": auc(part[TARGET], part["score"]),
        }
        records.append(
            {
                "fold": int(str(fold)),
                **values,
                "positives": int(part[TARGET].sum()),
                "n": len(part),
            }
        )
    of_folds = [values["pauc"] for values in records]
    return {
        "pauc": pauc(oof[TARGET], oof["score"]),
        "auc": auc(oof[TARGET], oof["score"]),
        "pauc_fold_mean": float(np.mean(of_folds)),
        "pauc_fold_sd": float(np.std(of_folds, ddof=1)) if len(of_folds) > 1 else 0.0,
        "folds": records,
    }


def _train_all(
    data: TrainingData, settings: StackSettings, first_seed: int
) -> dict[int, dict[str, list[Any]]]:
    """{fold: {library: its models}}, all models side by side."""
    if "lightgbm" in settings.members:
        from isic.stack.members.lightgbm_ import binned

        for fold in data.images:
            binned(data.pool_of(fold))  # once, before the threads start
    tasks = [
        (fold, name, seed)
        for fold in data.images
        for name in settings.members
        for seed in range(first_seed, first_seed + settings.seeds)
    ]

    def train(task: tuple[int, str, int]) -> Any:
        fold, name, seed = task
        chosen = settings.library(name)
        if settings.early_stop is None:
            index, watch = data.training_rows(fold, settings.negatives, seed), None
        else:
            watched = early_stopping_fold(data.fold, fold, seed, "stack.early_stop")
            index = data.training_rows(fold, settings.negatives, seed, watched)
            rows = sample_rows(data.target, data.fold == watched, _WATCHED, [seed, fold])
            watch = EarlyStopping(rows, data.target[rows], settings.early_stop)
        pool = data.pool_of(fold)
        return library(name).train(
            MemberTask(pool, index, chosen["params"], chosen["rounds"], seed, watch)
        )

    with ThreadPoolExecutor(workers()) as pool:
        trained = dict(zip(tasks, pool.map(train, tasks), strict=True))
    return {
        fold: {
            name: [
                trained[fold, name, seed] for seed in range(first_seed, first_seed + settings.seeds)
            ]
            for name in settings.members
        }
        for fold in data.images
    }


def _held_out_margins(
    data: TrainingData,
    members: dict[int, dict[str, list[Any]]],
    held_out: dict[int, NDArray[np.int64]],
) -> _ByLibrary:
    """{library: out-of-fold log-odds of each seed's model (seeds, n)}."""
    libraries = next(iter(members.values()))
    margins = {name: np.empty((len(of), len(data.fold))) for name, of in libraries.items()}
    for fold, index in held_out.items():
        columns = data.columns_of(fold)
        for name, models in members[fold].items():
            implementation = library(name)
            margins[name][:, index] = log_odds(
                [(implementation, model) for model in models], columns, index
            )
    return margins


def _blends(
    data: TrainingData,
    margins: _ByLibrary,
    held_out: dict[int, NDArray[np.int64]],
    settings: StackSettings,
) -> tuple[dict[int, Blend], float | None]:
    """Each fold's blend, and the pAUC optimism of weights found on all folds at once (None: equal
    weights).
    """
    if len(margins) == 1:
        return {fold: Blend(dict.fromkeys(margins, 1.0), {}) for fold in held_out}, None
    references = {
        fold: {name: make_reference(values[index]) for name, values in margins.items()}
        for fold, index in held_out.items()
    }
    even = dict.fromkeys(margins, 1 / len(margins))
    if (
        settings.blend == "rank" or len(held_out) == 1
    ):  # weights of a fold are found on others' scores
        return {fold: Blend(even, references[fold]) for fold in held_out}, None
    ranks = {name: np.empty(len(data.fold)) for name in margins}
    for fold, index in held_out.items():
        for name, values in margins.items():
            ranks[name][index] = rank(values[index], references[fold][name])
    blends, unbiased = {}, np.empty(len(data.fold))
    for fold, index in held_out.items():
        others = data.fold != fold
        weights = find_weights(
            data.target[others], {name: values[others] for name, values in ranks.items()}
        )
        blends[fold] = Blend(weights, references[fold])
        unbiased[index] = sum(weight * ranks[name][index] for name, weight in weights.items())
    best = find_weights(data.target, ranks)
    biased = sum(weight * ranks[name] for name, weight in best.items())
    return blends, pauc(data.target, biased) - pauc(data.target, unbiased)
