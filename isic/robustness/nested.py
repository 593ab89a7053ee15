"""Nested estimate of the optimism that stacking on shared folds adds to the out-of-fold score.

The stacker of fold F learns from image logits of the other folds, whose networks were trained on
fold F's labels. Rebuilding every network without fold F would cost K times the training, so a quick
learner on half of the columns stands for a network. For it both kinds of logits are affordable:
from learners trained with fold F, and from learners trained on as many rows without it. The
difference of the two stacks, paired by patient, is the expected optimism.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.metric import Floats, Interval, paired_difference, pauc
from isic.core.parallel import workers
from isic.core.params import StackSettings
from isic.core.schema import PATIENT, TARGET
from isic.robustness.leaks import screen_leaks
from isic.stack.encoder import rows
from isic.stack.fit import OutOfFold, out_of_fold
from isic.stack.inputs import Inputs
from isic.stack.members import MemberTask, Pool, library
from isic.stack.training_data import (
    TrainingData,
    build_training_data,
    drop_families,
    sample_rows,
    with_fitted,
)

_PROXY_SEED = 50


@dataclass(frozen=True)
class NestedEstimate:
    """pAUC of features with a proxy network's logits: from shared folds, as the stage does; rebuilt
    without the scored fold; what the first kind of logits gains at equal training size; and the
    proxy alone.
    """

    shared: float
    nested: float
    optimism: Interval
    proxy: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"optimism": self.optimism._asdict()}


def estimate_optimism(
    features: pd.DataFrame,
    folds: pd.DataFrame,
    settings: StackSettings,
    replicates: int = 1000,
    thinned: pd.DataFrame | None = None,
) -> NestedEstimate:
    """Estimate the optimism of shared folds on these features and folds; see the module. `thinned`:
    the features that members train on, as for `fit_stack`.
    """
    quiet = settings.model_copy(update={"members": ("lightgbm",)})
    image_settings = settings.images.model_copy(update={"embeddings": "none"})
    plain = build_training_data(
        features,
        {},
        folds,
        image_settings,
        settings.params.max_bin,
        fitted=settings.fitted,
        thinned=thinned,
    )
    fold_numbers = sorted(plain.images)
    if len(fold_numbers) < 3:
        raise InputError(
            "the nested check leaves two folds out at a time: set three `folds` or more in"
            " params.yaml"
        )
    view = _half(plain)
    logits = _proxy_logits(plain, view, quiet)
    shared_logits = _by_own_fold(
        logits, plain.fold, {fold: frozenset({fold}) for fold in fold_numbers}
    )
    sources = plain.encoder.sources()
    gone = [sources[name] for name in view]
    kept = features.drop(columns=gone), None if thinned is None else thinned.drop(columns=gone)
    shared, features_only = _stack(plain, kept, shared_logits, quiet)
    matched, nested = np.empty(len(features)), np.empty(len(features))
    for outer in fold_numbers:
        mine = plain.fold == outer
        # Both leave two folds out of every rebuilt learner: its training rows differ, not their
        # number.
        for scores, extra in (
            (matched, _other_than(outer, fold_numbers)),
            (nested, dict.fromkeys(fold_numbers, outer)),
        ):
            left_out = {
                fold: frozenset({fold} if fold == outer else {fold, extra[fold]})
                for fold in fold_numbers
            }
            scores[mine] = _stack(
                plain,
                kept,
                _by_own_fold(logits, plain.fold, left_out),
                quiet,
                outer,
                features_only,
            )[0].log_odds[mine]
    target, patients = plain.target, plain.folds[PATIENT]
    optimism = paired_difference(target, matched, nested, patients, replicates)
    return NestedEstimate(
        pauc(target, shared.log_odds), pauc(target, nested), optimism, pauc(target, shared_logits)
    )


def _other_than(outer: int, fold_numbers: list[int]) -> dict[int, int]:
    """For every fold, the next one in turn that is neither itself nor `outer`."""
    turned = {
        fold: fold_numbers[index + 1 :] + fold_numbers[:index]
        for index, fold in enumerate(fold_numbers)
    }
    return {fold: next(other for other in turned[fold] if other != outer) for fold in fold_numbers}


def _half(data: TrainingData) -> list[str]:
    """Numeric columns of the proxy network; the stacker gets the others and its logit."""
    numeric = [name for name in data.columns if data.encoder.level(name) is None]
    order = np.random.default_rng(_PROXY_SEED).permutation(len(numeric))
    return [numeric[index] for index in sorted(order[: len(numeric) // 2])]


def _proxy_logits(
    data: TrainingData, view: list[str], settings: StackSettings
) -> dict[frozenset[int], Floats]:
    """{folds left out: logits of all rows}, for every fold and every pair of folds."""
    from isic.stack.members.lightgbm_ import binned

    columns = {name: data.columns[name] for name in view}
    pool = Pool(columns, data.target, settings.params.max_bin)
    binned(pool)
    folds = np.unique(data.fold).tolist()
    tasks = [frozenset(left) for size in (1, 2) for left in combinations(folds, size)]
    chosen = settings.library("lightgbm")

    def score(left: frozenset[int]) -> Floats:
        index = sample_rows(
            data.target, ~np.isin(data.fold, list(left)), settings.negatives, [_PROXY_SEED]
        )
        implementation = library("lightgbm")
        model = implementation.train(
            MemberTask(pool, index, chosen["params"], chosen["rounds"], _PROXY_SEED)
        )
        needed = np.flatnonzero(np.isin(data.fold, list(left)))
        scores = np.full(len(data.fold), np.nan)
        scores[needed] = implementation.log_odds(model, rows(columns, needed))
        return scores

    with ThreadPoolExecutor(workers()) as workers_pool:
        return dict(zip(tasks, workers_pool.map(score, tasks), strict=True))


def _by_own_fold(
    logits: Mapping[frozenset[int], Floats],
    fold: NDArray[np.int64],
    left_out: Mapping[int, frozenset[int]],
) -> Floats:
    """Each row's logit from the model that left out `left_out[its fold]`."""
    chosen = np.empty(len(fold))
    for group, left in left_out.items():
        chosen[fold == group] = logits[left][fold == group]
    return chosen


def _stack(
    plain: TrainingData,
    features: tuple[pd.DataFrame, pd.DataFrame | None],
    logits: Floats,
    settings: StackSettings,
    only: int | None = None,
    features_only: OutOfFold | None = None,
) -> tuple[OutOfFold, OutOfFold | None]:
    """`out_of_fold` of features (for scoring, for training), proxy logits and the fitted features of
    `plain`, of fold `only` alone if given (others NaN); with `features_only` if it is fitted already.
    """
    image_settings = settings.images.model_copy(update={"embeddings": "none"})
    bare = build_training_data(
        features[0],
        {"proxy": logits},
        plain.folds,
        image_settings,
        settings.params.max_bin,
        thinned=features[1],
    )
    # Fitted once: fitted features read no logit, and need columns of the proxy.
    data = drop_families(with_fitted(bare, plain), settings.drop)
    if only is not None:
        data = replace(data, images={only: data.images[only]})
    return out_of_fold(data, settings, features_only=features_only)


def check_optimism(
    inputs: Inputs, oof: pd.DataFrame, settings: StackSettings, replicates: int
) -> dict[str, Any]:
    """Leaks and the optimism of shared folds, as JSON-able values (`isic check-stack`).

    `inputs` are the stage's, `oof` its target and score by row. In the result, `headline` is the
    stage's own pooled pAUC and `pauc` the headline minus the estimated optimism; a negative
    estimate is chance and is not added. `text` is a sentence about it, `leaks` the result of
    `screen_leaks`.
    """
    headline = pauc(oof[TARGET], oof["score"])
    images = settings.images.model_copy(update={"embeddings": "none"})
    data = build_training_data(
        *inputs[:3],
        images,
        settings.params.max_bin,
        fitted=settings.fitted,
        thinned=inputs.thinned,
    )
    leaks = screen_leaks(data)
    estimate = estimate_optimism(
        inputs.features, inputs.folds, settings, replicates, inputs.thinned
    )
    return {
        "headline": headline,
        "pauc": headline - max(0.0, estimate.optimism.value),
        "text": _in_words(estimate),
        "leaks": [asdict(leak) for leak in leaks],
        **estimate.to_json(),
    }


def _in_words(estimate: NestedEstimate) -> str:
    gain = estimate.optimism
    text = f"optimism of shared folds {gain.value:+.4f} (95 % {gain.low:+.4f} to {gain.high:+.4f})"
    nothing = ", so nothing is taken off" if gain.value < 0 else ""
    return f"{text}, estimated with a proxy for the networks{nothing}"
