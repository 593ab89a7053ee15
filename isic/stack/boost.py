"""LightGBM members: trained on row subsets of one binned table, one thread each, stored as text.

Bin edges are label-free quantiles, so one binned table serves every fold, seed and trial. Small models gain little
from threads and lose much when cores are shared; whole models run side by side instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightgbm as lgb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from isic.stack.design import Columns, rows

#: Rows that bin edges are read from, and rows scored at a time (bounds memory at scoring).
_BIN_SAMPLE = 50_000
_CHUNK = 50_000
#: Byte-equal models for equal input, and none of LightGBM's own searches or filters that depend on the machine.
_FIXED: dict[str, Any] = {
    "objective": "binary",
    "metric": "None",
    "verbosity": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "feature_pre_filter": False,
    "bin_construct_sample_cnt": _BIN_SAMPLE,
}


def workers() -> int:
    """Models to train side by side: the cores this process may use, or OMP_NUM_THREADS if that is fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(asked))) if asked.isdigit() and int(asked) else cores


def bin_columns(columns: Columns, target: NDArray[np.int64], max_bin: int) -> lgb.Dataset:
    """Bin all rows once; `subset` of the result trains a member on some of them."""
    table = pa.table(dict(columns))
    params = {**_FIXED, "max_bin": max_bin, "num_threads": workers()}
    return lgb.Dataset(table, label=target, params=params, free_raw_data=True).construct()


def train(
    bins: lgb.Dataset, index: NDArray[np.int64], params: Mapping[str, Any], rounds: int, seed: int
) -> lgb.Booster:
    """One member on the rows `index` (sorted); the same arguments give the same bytes on any number of cores."""
    booster = lgb.Booster({**params, **_FIXED, "seed": seed}, bins.subset(index))
    for _ in range(rounds):
        if booster.update():
            break
    # Through its text: what scores now is exactly what a reload scores.
    return lgb.Booster(model_str=booster.model_to_string())


def raw_scores(boosters: list[lgb.Booster], columns: Columns, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Log-odds of each member for the chosen rows, (members, rows) float64."""
    parts = [index[start : start + _CHUNK] for start in range(0, len(index), _CHUNK)]
    scores = np.empty((len(boosters), len(index)))
    with ThreadPoolExecutor(workers()) as pool:
        for number, part in enumerate(parts):
            matrix = rows(columns, part)
            place = slice(number * _CHUNK, number * _CHUNK + len(part))
            scored = [pool.submit(booster.predict, matrix, raw_score=True, num_threads=1) for booster in boosters]
            scores[:, place] = np.stack([future.result() for future in scored])
    return scores
