"""LightGBM: all rows binned once, models trained on row subsets of the binned table, stored as
text.

Bin edges are label-free quantiles, so one binned table serves every fold, seed and trial.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.parallel import workers
from isic.stack.encoder import Columns
from isic.stack.members.base import EarlyStopping, MemberTask, Pool
from isic.stack.members.lightgbm_text import check_text

#: Byte-equal models for equal input, without LightGBM's searches and filters that depend on the
#: machine.
_FIXED: dict[str, Any] = {
    "objective": "binary",
    "metric": "None",
    "verbosity": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "feature_pre_filter": False,
    # Else LightGBM puts sparse columns of a table into one group. When tables are combined, it
    # merges two groups and so reorders the columns, in training rows but not in those to score.
    "is_enable_sparse": False,
    # Rows from which bin edges are computed.
    "bin_construct_sample_cnt": 50_000,
}

_WARNINGS_LOCK = threading.Lock()


def bin_columns(columns: Columns, pool: Pool, like: lgb.Dataset | None = None) -> lgb.Dataset:
    """Bin all rows of `columns`, by the edges of `like` if given. The Arrow table is a view of
    them.
    """
    params = {**_FIXED, "max_bin": pool.max_bin, "num_threads": workers()}
    table = pa.table(dict(columns))
    return lgb.Dataset(
        table, label=pool.target, reference=like, params=params, free_raw_data=True
    ).construct()


def binned(pool: Pool) -> list[lgb.Dataset]:
    """One binned table per group of the pool's columns, those of its base first; computed once per
    pool.
    """
    if "lightgbm" not in pool.prepared:
        shared = binned(pool.base) if pool.base else []
        groups = pool.groups or [list(pool.columns)]
        own = [bin_columns({name: pool.columns[name] for name in group}, pool) for group in groups]
        pool.prepared["lightgbm"] = [*shared, *own]
    tables: list[lgb.Dataset] = pool.prepared["lightgbm"]
    return tables


def compose(bins: Sequence[lgb.Dataset], index: NDArray[np.int64]) -> lgb.Dataset:
    """The rows `index` (sorted) of several binned tables as one table, equal to binning all columns
    together.
    """
    combined = bins[0].subset(index).construct()
    for table in bins[1:]:
        # One at a time bounds memory: at most one table is copied at once.
        other = table.subset(index).construct()
        # LightGBM warns that raw data is missing. Warning filters are global, hence the lock.
        with _WARNINGS_LOCK, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            combined.add_features_from(other)
    return combined


def train(data: lgb.Dataset, params: Mapping[str, Any], rounds: int, seed: int) -> lgb.Booster:
    """A booster of `rounds` trees on a binned table."""
    booster = lgb.Booster({**params, **_FIXED, "seed": seed}, data)
    for _ in range(rounds):
        if booster.update():
            break
    return booster


def train_and_score(
    data: lgb.Dataset,
    held_out: lgb.Dataset,
    params: Mapping[str, Any],
    rounds: int,
    seed: int,
    cancelled: threading.Event,
    threads: int = 1,
    halfway: Callable[[NDArray[np.float64]], None] | None = None,
) -> NDArray[np.float64]:
    """Margins of the binned rows `held_out` by a booster of `rounds` trees, updated with every
    tree. They do not depend on `threads`.

    Where LightGBM bundles columns, one row in a thousand may differ slightly from the score of its
    raw values. Training stops early, with unusable margins, once `cancelled` is set. `halfway` is
    called with the rows' probabilities after half of the rounds.
    """
    booster = lgb.Booster({**params, **_FIXED, "seed": seed, "num_threads": threads}, data)
    booster.add_valid(held_out, "held out")
    half = max(1, rounds // 2)
    for iteration in range(rounds):
        if iteration == half and halfway is not None:
            halfway(_held_out_scores(booster, held_out))
        if cancelled.is_set() or booster.update():
            break
    if iteration < half and halfway is not None:
        halfway(_held_out_scores(booster, held_out))  # no further split was possible
    # With an objective LightGBM returns probabilities, which are 1 beyond a margin of 37.
    booster.reset_parameter({"objective": "none"})
    return _held_out_scores(booster, held_out)


def _held_out_scores(booster: lgb.Booster, held_out: lgb.Dataset) -> NDArray[np.float64]:
    scores_out = np.empty(held_out.num_data())

    def copy(scores: NDArray[np.float64], _: lgb.Dataset) -> tuple[str, float, bool]:
        scores_out[:] = scores
        return "scores", 0.0, True

    booster.eval_valid(copy)
    return scores_out


def _train_with_early_stopping(
    data: lgb.Dataset,
    held_out: lgb.Dataset,
    params: Mapping[str, Any],
    rounds: int,
    seed: int,
    stopping: EarlyStopping,
) -> lgb.Booster:
    """A booster with `best_iteration` set to the number of trees that is best on the binned rows
    `held_out`.
    """
    booster = lgb.Booster({**params, **_FIXED, "seed": seed}, data)
    booster.add_valid(held_out, "held out")
    scores: list[float] = []
    for _ in range(rounds):
        if booster.update():
            break
        scores.append(
            booster.eval_valid(lambda margins, _: ("pauc", stopping.pauc(margins), True))[0][2]
        )
        booster.best_iteration, stop = stopping.best(scores)
        if stop:
            break
    return booster


class LightGBM:
    """See `Library`."""

    suffix = ".txt"

    def train(self, task: MemberTask) -> lgb.Booster:
        tables, stopping = binned(task.pool), task.early_stopping
        data = compose(tables, task.index)
        if stopping is None:
            booster = train(data, task.params, task.rounds, task.seed)
        else:
            held_out = compose(tables, stopping.index)
            booster = _train_with_early_stopping(
                data, held_out, task.params, task.rounds, task.seed, stopping
            )

        # The text holds the best iterations only, so the model scores exactly as after a reload.
        return lgb.Booster(model_str=booster.model_to_string())

    def log_odds(self, model: lgb.Booster, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(model.predict(matrix, raw_score=True, num_threads=1))

    def contributions(self, model: lgb.Booster, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(model.predict(matrix, pred_contrib=True, num_threads=1), np.float64)

    def save(self, model: lgb.Booster, path: Path) -> None:
        model.save_model(path)

    def load(self, path: Path, columns: Sequence[str]) -> lgb.Booster:
        try:
            return lgb.Booster(model_str=check_text(path.read_bytes(), columns))
        except (ValueError, lgb.basic.LightGBMError) as error:
            raise InputError(
                f"{path} is not a LightGBM model of the columns of stack.json ({error}): rerun"
                " `dvc repro stack`"
            ) from error


LIBRARY = LightGBM()
