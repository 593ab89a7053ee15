"""Patient-grouped, stratified folds: computed once, stored, and read by later stages.

Published cross-validation scores depend on the split, and scikit-learn's grouped stratification
changed in 1.8 (its issue #32540), so later stages read the stored file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_integer_dtype

from isic.core.errors import InputError
from isic.core.io import read_parquet
from isic.core.schema import ID, PATIENT, TARGET


def make_folds(frame: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Assign the rows of `frame` (isic_id, patient_id, target) to `count` folds, all rows of a
    patient to one.

    Returns isic_id, patient_id, target and fold (int64), in the rows' order.
    Raises InputError when some fold would have no malignant or no benign lesion.
    """
    patients = frame[PATIENT].nunique()
    positive_patients = frame.loc[frame[TARGET] == 1, PATIENT].nunique()
    if positive_patients < count:
        raise InputError(
            f"{positive_patients} patients with a malignant lesion cannot fill {count} folds "
            f"({patients} patients in all): shorten `folds` in params.yaml or use more data"
        )
    # Imported late: stages that only read folds do without it.
    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
    fold = np.full(len(frame), -1, dtype=np.int64)
    for index, (_, held_out) in enumerate(splitter.split(frame, frame[TARGET], frame[PATIENT])):
        fold[held_out] = index
    folds = frame[[ID, PATIENT, TARGET]].assign(fold=fold)
    check_folds(folds, count)
    return folds


def check_folds(folds: pd.DataFrame, count: int) -> None:
    """Raise InputError unless folds 0..count-1 are disjoint by patient and have both classes."""
    if not is_integer_dtype(folds["fold"]):
        raise InputError(
            "data/folds.parquet has folds that are not whole numbers: delete it and rerun"
            " `dvc repro folds`"
        )
    labels = sorted(folds["fold"].unique())
    if labels != list(range(count)):
        raise InputError(
            f"data/folds.parquet holds folds {[*map(int, labels)]}, params.yaml asks for 0 to {count - 1}:"
            " rerun `dvc repro folds`"
        )
    if (folds.groupby(PATIENT)["fold"].nunique() > 1).any():
        raise InputError(
            "data/folds.parquet has a patient in several folds: delete it and rerun `dvc repro"
            " folds`"
        )
    counts = folds.groupby("fold")[TARGET].agg(["sum", "size"])
    for fold, row in counts.iterrows():
        if row["sum"] == 0:
            raise InputError(
                f"fold {fold} has no malignant lesion: shorten `folds` or change split.seed in"
                " params.yaml"
            )
        if row["sum"] == row["size"]:
            raise InputError(
                f"fold {fold} has no benign lesion: shorten `folds` or change split.seed in"
                " params.yaml"
            )


def read_folds(path: Path, count: int) -> pd.DataFrame:
    """The stored folds. Raises InputError unless they are folds 0 to `count` - 1 (see
    `check_folds`).
    """
    folds = read_parquet(path, columns=[ID, PATIENT, TARGET, "fold"])
    check_folds(folds, count)
    return folds
