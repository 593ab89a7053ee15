"""LightGBM: all rows binned once, models trained on row subsets of the binned table, stored as text.

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
from isic.stack.encoder import Columns
from isic.stack.members.base import EarlyStopping, Pool, workers

#: Byte-equal models for equal input, and none of LightGBM's own searches or filters that depend on the machine.
_FIXED: dict[str, Any] = {
    "objective": "binary",
    "metric": "None",
    "verbosity": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "feature_pre_filter": False,
    # Rows that bin edges are read from.
    "bin_construct_sample_cnt": 50_000,
}

_QUIET = threading.Lock()


def bin_columns(columns: Columns, pool: Pool, like: lgb.Dataset | None = None) -> lgb.Dataset:
    """Bin all rows of `columns`, by the edges of `like` if given; the Arrow table only points at them."""
    params = {**_FIXED, "max_bin": pool.max_bin, "num_threads": workers()}
    table = pa.table(dict(columns))
    return lgb.Dataset(table, label=pool.target, reference=like, params=params, free_raw_data=True).construct()


def binned(pool: Pool) -> list[lgb.Dataset]:
    """One binned table per group of the pool's columns, those of its base first; made once a pool."""
    if "lightgbm" not in pool.prepared:
        shared = binned(pool.base) if pool.base else []
        groups = pool.groups or [list(pool.columns)]
        own = [bin_columns({name: pool.columns[name] for name in group}, pool) for group in groups]
        pool.prepared["lightgbm"] = [*shared, *own]
    tables: list[lgb.Dataset] = pool.prepared["lightgbm"]
    return tables


def compose(bins: Sequence[lgb.Dataset], index: NDArray[np.int64]) -> lgb.Dataset:
    """The rows `index` (sorted) of several binned tables side by side, equal to binning their columns together."""
    whole = bins[0].subset(index).construct()
    for part in bins[1:]:
        # One at a time, so that no more than one is held twice.
        other = part.subset(index).construct()
        # It warns that no raw data came along; filters are the process's, so threads take turns.
        with _QUIET, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            whole.add_features_from(other)
    return whole


def grow(data: lgb.Dataset, params: Mapping[str, Any], rounds: int, seed: int) -> lgb.Booster:
    """A booster of `rounds` trees on a binned table."""
    booster = lgb.Booster({**params, **_FIXED, "seed": seed}, data)
    for _ in range(rounds):
        if booster.update():
            break
    return booster


def grow_and_score(
    data: lgb.Dataset,
    held_out: lgb.Dataset,
    params: Mapping[str, Any],
    rounds: int,
    seed: int,
    unwanted: threading.Event,
    threads: int = 1,
    halfway: Callable[[NDArray[np.float64]], None] | None = None,
) -> NDArray[np.float64]:
    """Margins of the binned rows `held_out` by a booster of `rounds` trees, kept up as it grows: no raw value is read.
    They do not depend on `threads`.

    Where LightGBM bundled columns, a row in a thousand may differ by a hair from what its raw values score. Growing
    ends early, with margins of no use, once `unwanted` is set. `halfway` is told the rows' probabilities after half of
    the rounds.
    """
    booster = lgb.Booster({**params, **_FIXED, "seed": seed, "num_threads": threads}, data)
    booster.add_valid(held_out, "held out")
    half = max(1, rounds // 2)
    for number in range(rounds):
        if number == half and halfway is not None:
            halfway(_held_out_scores(booster, held_out))
        if unwanted.is_set() or booster.update():
            break
    if number < half and halfway is not None:
        halfway(_held_out_scores(booster, held_out))  # it has no more to learn
    # With its objective it hands out probabilities, and beyond a margin of 37 these are 1.
    booster.reset_parameter({"objective": "none"})
    return _held_out_scores(booster, held_out)


def _held_out_scores(booster: lgb.Booster, held_out: lgb.Dataset) -> NDArray[np.float64]:
    kept = np.empty(held_out.num_data())

    def keep(scores: NDArray[np.float64], _: lgb.Dataset) -> tuple[str, float, bool]:
        kept[:] = scores
        return "kept", 0.0, True

    booster.eval_valid(keep)
    return kept


def grow_watched(
    data: lgb.Dataset, watched: lgb.Dataset, params: Mapping[str, Any], rounds: int, seed: int, watch: EarlyStopping
) -> lgb.Booster:
    """A booster of as many trees as are best on the binned rows `watched`; `best_iteration` says how many."""
    booster = lgb.Booster({**params, **_FIXED, "seed": seed}, data)
    booster.add_valid(watched, "watch")
    scores: list[float] = []
    for _ in range(rounds):
        if booster.update():
            break
        scores.append(booster.eval_valid(lambda margins, _: ("pauc", watch.pauc(margins), True))[0][2])
        booster.best_iteration, stop = watch.best(scores)
        if stop:
            break
    return booster


class LightGBM:
    """See `Library`."""

    suffix = ".txt"

    def train(
        self,
        pool: Pool,
        index: NDArray[np.int64],
        params: Mapping[str, Any],
        rounds: int,
        seed: int,
        watch: EarlyStopping | None = None,
    ) -> lgb.Booster:
        data = compose(binned(pool), index)
        if watch is None:
            booster = grow(data, params, rounds, seed)
        else:
            booster = grow_watched(data, compose(binned(pool), watch.index), params, rounds, seed, watch)
        # Through its text, which holds the best iterations only: what scores now is exactly what a reload scores.
        return lgb.Booster(model_str=booster.model_to_string())

    def log_odds(self, model: lgb.Booster, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(model.predict(matrix, raw_score=True, num_threads=1))

    def gain(self, model: lgb.Booster, columns: Sequence[str]) -> NDArray[np.float64]:
        return np.asarray(model.feature_importance("gain"), np.float64)

    def contributions(self, model: lgb.Booster, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(model.predict(matrix, pred_contrib=True, num_threads=1), np.float64)

    def save(self, model: lgb.Booster, path: Path) -> None:
        model.save_model(path)

    def load(self, path: Path, columns: Sequence[str]) -> lgb.Booster:
        try:
            model = lgb.Booster(model_file=path)
        except lgb.basic.LightGBMError as error:
            raise InputError(f"{path} is not a LightGBM model ({error}): rerun `dvc repro stack`") from error
        # LightGBM matches columns by position and would score any order without a word.
        if model.feature_name() != list(columns):
            raise InputError(f"{path} was trained on other columns than stack.json names: rerun `dvc repro stack`")
        return model


LIBRARY = LightGBM()
