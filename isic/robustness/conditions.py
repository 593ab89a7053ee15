"""Refits and scores of a run's learners under other conditions, for the stage robustness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.params import Evaluate, StackSettings
from isic.core.progress import StepProgress
from isic.core.schema import ID, PATIENT
from isic.evaluate.results import RunResults, align_rows
from isic.robustness.nested import check_optimism
from isic.robustness.perturb import image_noise, missing_columns
from isic.robustness.robustness import (
    distribution_shift,
    largest_fold,
    leave_hospital_out,
    sample_tiles,
)
from isic.stack import Stack
from isic.stack.fit import fit_training_data
from isic.stack.inputs import Inputs
from isic.stack.training_data import build_training_data, with_groups
from isic.tabular import build_features

#: Usual shares of the stage's time, from the demo.
_SHARES = {"hospitals": 28, "sameness": 1, "columns": 7, "images": 4, "nested": 20}
#: Rows rescored for missing columns: most time is spent on rebuilding features for each group of
#: columns.
_RESCORED_ROWS = 60_000


def conditions(
    results: RunResults,
    inputs: Inputs,
    stack: Stack,
    networks: Mapping[str, Mapping[int, Path]],
    tiles: Path,
    test: pd.DataFrame | None,
    *,
    tta: Mapping[str, str],
    settings: StackSettings,
    families: Sequence[str],
    intervals: Evaluate,
) -> dict[str, Any]:
    """Everything in metrics/robustness.json; parts that cannot be computed have the reason in their
    `absent`.

    `inputs` are those of `stack`, with embeddings if it uses them; `networks` is backbone -> fold
    -> model folder, `tiles` the HDF5 file of the training tiles, `test` the metadata of the test
    lesions if there are any, `tta` backbone -> test-time augmentation, `settings` the stacker's,
    and `families` its feature families.
    """
    replicates = intervals.replicates
    embeddings = settings.images.embeddings != "none"

    def refit(folds: pd.DataFrame, logits: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """The stacker without `folds`' groups of lesions, in their order; logits keep the scale of
        their networks.
        """
        plain = _plain(settings)
        ordinary = build_training_data(
            inputs.features,
            logits,
            inputs.folds,
            plain.images,
            plain.params.max_bin,
            thinned=inputs.thinned,
        )
        groups = align_rows(folds, inputs.features[ID], "the groups")["fold"].to_numpy(np.int64)
        oof = fit_training_data(
            with_groups(ordinary, groups, inputs.features, plain.fitted), plain
        ).oof
        return align_rows(oof, folds[ID], "the refitted stacker")["score"].to_numpy(np.float64)

    parts: dict[str, tuple[str, Callable[[], Any]]] = {
        "hospitals": (
            "fit without each hospital",
            lambda: _hospitals(
                results, lambda folds: refit(folds, inputs.logits), intervals, embeddings
            ),
        ),
        "sameness": (
            "compare training and test lesions",
            lambda: distribution_shift(results.rows, results.fold, test),
        ),
        "columns": (
            "score with missing columns",
            lambda: _columns(results, inputs, stack, families, intervals),
        ),
        "images": (
            "score with noisy images",
            lambda: _images(results, networks, tta, tiles),
        ),
        "nested": (
            "estimate the optimism of shared folds",
            lambda: _nested(inputs, results, settings, replicates),
        ),
    }
    progress = StepProgress(
        "robustness", {text: _SHARES[name] for name, (text, _) in parts.items()}
    )
    found = {}
    for name, (text, compute) in parts.items():
        progress.start(text)
        found[name] = compute()
    return found


def _hospitals(
    results: RunResults,
    refit: Callable[[pd.DataFrame], NDArray[np.float64]],
    intervals: Evaluate,
    embeddings: bool,
) -> dict[str, Any]:
    """Scores of each hospital by a stacker trained without it, or the reason why there are none
    (early stopping needs three groups).
    """
    try:
        return leave_hospital_out(results, refit, intervals.replicates, intervals.seed, embeddings)
    except InputError as error:
        return {"absent": str(error), "records": []}


def _nested(
    inputs: Inputs, results: RunResults, settings: StackSettings, replicates: int
) -> dict[str, Any]:
    """The optimism of scores from shared folds (`isic check-stack`), or the reason why it cannot be
    estimated.
    """
    try:
        return {"absent": "", **check_optimism(inputs, results.oof, settings, replicates)}
    except InputError as error:
        return {"absent": str(error)}


def _plain(settings: StackSettings) -> StackSettings:
    """The same stacker without embeddings: their projections belong to the ordinary folds."""
    image_settings = settings.images.model_copy(update={"embeddings": "none"})
    return settings.model_copy(update={"images": image_settings})


def _columns(
    results: RunResults,
    inputs: Inputs,
    stack: Stack,
    families: Sequence[str],
    intervals: Evaluate,
) -> dict[str, Any]:
    folds = _rescored_folds(results)
    chosen = np.flatnonzero(np.isin(results.fold, folds))
    rows, fold = results.rows.iloc[chosen].reset_index(drop=True), results.fold[chosen]
    index = pd.Index(inputs.features[ID]).get_indexer(pd.Index(rows[ID]))

    def score(changed: pd.DataFrame) -> NDArray[np.float64]:
        features = build_features(changed, list(families))
        scores = np.empty(len(changed))
        for held_out in folds:
            held = np.flatnonzero(fold == held_out)
            scores[held] = stack.score(
                features.iloc[held].reset_index(drop=True),
                {name: values[index[held]] for name, values in inputs.logits.items()},
                held_out,
                changed[PATIENT].iloc[held],
                {name: values[index[held]] for name, values in inputs.embeddings.items()} or None,
            )
        return scores

    target, base = results.target[chosen], results.score[chosen]
    records = missing_columns(rows, target, base, score, intervals.replicates, intervals.seed)
    return {"folds": folds, "records": records}


def _rescored_folds(results: RunResults) -> list[int]:
    """Folds in order until _RESCORED_ROWS rows are reached; always one."""
    sizes = pd.Series(results.fold).value_counts().sort_index()
    within = sizes.cumsum() <= _RESCORED_ROWS
    return [int(fold) for fold in sizes.index[within]] or [int(sizes.index[0])]


def _images(
    results: RunResults,
    networks: Mapping[str, Mapping[int, Path]],
    tta: Mapping[str, str],
    tiles: Path,
) -> dict[str, Any]:
    fold = largest_fold(results)
    ids, target = sample_tiles(results, fold)
    records: list[dict[str, Any]] = []
    for backbone, folders in networks.items():
        try:
            scores = list(image_noise(folders[fold], tta[backbone], tiles, ids, target))
        except InputError as error:
            return {"absent": str(error), "records": records}
        records += [{"backbone": backbone, **record} for record in scores]
    about = {"fold": fold, "n": len(ids), "positives": int(target.sum())}
    return {
        "absent": "" if records else "the run has no image networks",
        "records": records,
        **about,
    }
