"""Fitting the stacker: members over libraries, seeds and samples of benign rows, for each fold on
the other folds.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from isic.core.early_stopping import early_stopping_fold
from isic.core.metric import Floats, auc, pauc
from isic.core.parallel import workers
from isic.core.params import StackSettings
from isic.core.schema import FEATURES_ONLY, SEED_COLUMN, TARGET
from isic.stack.blend import Blend, by_patient_size, find_weights, make_reference, rank
from isic.stack.combination import combine, fit_combinations
from isic.stack.image_columns import Embeddings
from isic.stack.members import EarlyStopping, MemberTask, library, log_odds
from isic.stack.model import Chain, Members, Stack
from isic.stack.training_data import (
    Anchors,
    Part,
    TrainingData,
    build_training_data,
    drop_families,
    sample_rows,
    without_images,
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
    same lesions in any order. thinned: features of the same lesions within parts of their patients;
    with them every seed trains two more members, see `by_patient_size`.
    The same input gives the same bytes. Raises InputError when the frames do not hold the same
    lesions, or a logit is missing.
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
    found, features_only = out_of_fold(data, settings, first_seed)
    if features_only is None:
        return _stack(data, found)
    stack = _stack(data, found, _stack(without_images(data), features_only))
    stack.oof[FEATURES_ONLY] = expit(features_only.log_odds)
    return stack


@dataclass(frozen=True)
class OutOfFold:
    """Chains of some folds, and their rows' log-odds (n,) and by seed (seeds, n), NaN elsewhere;
    the blend's optimism where its weights are fitted.
    """

    chains: dict[int, Chain]
    log_odds: Floats
    by_seed: NDArray[np.float32]
    optimism: float | None = None


def out_of_fold(
    data: TrainingData,
    settings: StackSettings,
    first_seed: int = 0,
    features_only: OutOfFold | None = None,
) -> tuple[OutOfFold, OutOfFold | None]:
    """The stacker's chains and log-odds, and those of the same members without image columns; None
    where there are no others. `features_only`: the second result of a call with the same features,
    settings and at least these folds, which is then not fitted again.
    """
    found = _members_out_of_fold(data, settings, first_seed)
    if not data.image_names:
        return found, None
    if features_only is None:
        features_only = _members_out_of_fold(without_images(data), settings, first_seed)
    if settings.combine == "late":
        found = _combine(data, features_only, found)
    return found, features_only


def _stack(data: TrainingData, found: OutOfFold, features_only: Stack | None = None) -> Stack:
    # The gate needs each seed's log-odds: two stacks of one recipe differ by their seeds.
    seeds = {f"{SEED_COLUMN}{item}": values for item, values in enumerate(found.by_seed)}
    oof = data.folds.assign(score=expit(found.log_odds), **seeds)
    metrics = _fold_metrics(oof)
    if found.optimism is not None:
        metrics["blend_optimism"] = found.optimism
    if data.failed:
        metrics["failed_networks"] = list(data.failed)
    return Stack(
        data.encoder,
        found.chains,
        data.all_families(),
        oof,
        metrics,
        features_only,
        data.lesion_names,
    )


def _members_out_of_fold(data: TrainingData, settings: StackSettings, first_seed: int) -> OutOfFold:
    """Chains of the folds in `data.images`, scored on these folds' rows."""
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
    total = np.full(len(data.fold), np.nan)
    by_seed = np.full((settings.seeds, len(data.fold)), np.nan, np.float32)
    for fold, index in held_out.items():
        chain = chains[fold]
        total[index] = chain.offset + chain.blend(
            {name: values[index] for name, values in margins.items()}
        )
        for seed in range(settings.seeds):
            by_seed[seed, index] = chain.offset + chain.blend(
                {name: values[seed, index] for name, values in seed_margins.items()}
            )
    return OutOfFold(chains, total, by_seed, optimism)


def _combine(data: TrainingData, features_only: OutOfFold, with_images: OutOfFold) -> OutOfFold:
    """`with_images` with each chain's late combination with `features_only`."""
    design = data.combination_design(features_only.log_odds, with_images.log_odds)
    combinations = fit_combinations(data.target, data.fold, design)
    by_seed = [
        combine(combinations, data.fold, data.combination_design(*margins))
        for margins in zip(features_only.by_seed, with_images.by_seed, strict=True)
    ]
    chains = {
        fold: replace(chain, combination=combinations[fold])
        for fold, chain in with_images.chains.items()
    }
    total = combine(combinations, data.fold, design)
    return OutOfFold(chains, total, np.array(by_seed, np.float32), with_images.optimism)


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


def _train_all(data: TrainingData, settings: StackSettings, first_seed: int) -> dict[int, Members]:
    """{fold: its members}, all models side by side."""
    seeds = range(first_seed, first_seed + settings.seeds)
    parts = list(data.pools)
    tasks = [
        (fold, name, part, seed)
        for part in parts
        for seed in seeds
        for fold in data.images
        for name in settings.members
    ]
    for fold, _, part, seed in tasks:  # once, before the threads start
        pool = data.pool_of(fold, part, seed)
        if "lightgbm" in settings.members:
            from isic.stack.members.lightgbm_ import binned

            binned(pool)

    def train(task: tuple[int, str, Part, int]) -> Any:
        fold, name, part, seed = task
        chosen = settings.library(name)
        if settings.early_stop is None:
            index, watch = data.training_rows(fold, settings.negatives, seed), None
        else:
            watched = early_stopping_fold(data.fold, fold, seed, "stack.early_stop")
            index = data.training_rows(fold, settings.negatives, seed, watched)
            rows = sample_rows(data.target, data.fold == watched, _WATCHED, [seed, fold])
            watch = EarlyStopping(rows, data.target[rows], settings.early_stop)
        pool = data.pool_of(fold, part, seed)
        return library(name).train(
            MemberTask(pool, index, chosen["params"], chosen["rounds"], seed, watch)
        )

    with ThreadPoolExecutor(workers()) as threads:
        trained = dict(zip(tasks, threads.map(train, tasks), strict=True))
    return {
        fold: {
            name: {part: [trained[fold, name, part, seed] for seed in seeds] for part in parts}
            for name in settings.members
        }
        for fold in data.images
    }


def _held_out_margins(
    data: TrainingData,
    members: dict[int, Members],
    held_out: dict[int, NDArray[np.int64]],
) -> _ByLibrary:
    """{library: out-of-fold log-odds of each seed's models (seeds, n)}."""
    libraries = next(iter(members.values()))
    margins = {name: np.empty((len(of["whole"]), len(data.fold))) for name, of in libraries.items()}
    sizes = data.patient_sizes
    for fold, index in held_out.items():
        own = data.columns_of(fold)
        columns = dict.fromkeys(data.pools, own)
        if "lesion" in columns:
            columns["lesion"] = {name: own[name] for name in data.lesion_names}
        for name, by_part in members[fold].items():
            values = {
                part: log_odds([(library(name), model) for model in models], columns[part], index)
                for part, models in by_part.items()
            }
            margins[name][:, index] = by_patient_size(values, sizes[index])
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
