"""Reading what the stack stage reads: features, recorded folds, and every backbone's out-of-fold logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from isic.core.errors import InputError
from isic.core.folds import read_folds
from isic.core.io import read_parquet
from isic.core.paths import Layout
from isic.core.schema import ID
from isic.stack.fit import align


def read_inputs(
    layout: Layout, folds: Sequence[int], backbones: Sequence[str]
) -> tuple[pd.DataFrame, dict[str, NDArray[np.float32]], pd.DataFrame]:
    """Features (n), {backbone: out-of-fold logits (n,)} and folds (n), all in the features' row order.

    Raises InputError when a file is missing or a fold's logits are not those of the fold's lesions.
    """
    features = read_parquet(layout.features)
    table = align(read_folds(layout, len(folds)), features[ID])
    return features, {backbone: _logits(layout, table, backbone) for backbone in backbones}, table


def _logits(layout: Layout, table: pd.DataFrame, backbone: str) -> NDArray[np.float32]:
    numbers = sorted(table["fold"].unique())
    parts = [read_parquet(layout.embedding(backbone, number), columns=[ID, "logit"]) for number in numbers]
    for number, part in zip(numbers, parts, strict=True):
        expected = table.loc[table["fold"] == number, ID]
        if len(part) != len(expected) or set(part[ID]) != set(expected):
            raise InputError(
                f"{layout.embedding(backbone, number)} does not hold the lesions of fold {number}: "
                f"rerun `dvc repro embed@{backbone}-{number}`"
            )
    logits = pd.concat(parts).set_index(ID)["logit"]
    return logits.loc[table[ID]].to_numpy(np.float32)
