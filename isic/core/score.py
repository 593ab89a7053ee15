"""Score a submission against a solution by the competition's metrics, matched by isic_id instead of
position.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from isic.core.csv_files import read_csv
from isic.core.errors import InputError
from isic.core.metric import auc, pauc, top15_sensitivity
from isic.core.schema import ID, PATIENT, TARGET


def score_files(solution: Path, submission: Path) -> dict[str, float | int | None]:
    """pAUC, AUC and top-15 sensitivity of `submission` (isic_id, target) against `solution`
    (isic_id, target, …).

    The top-15 sensitivity needs patient_id in the solution and is None without it. Raises
    InputError for unreadable files, missing columns, repeated, missing or surplus ids, and scores
    that are not finite.
    """
    truth = _read(solution, "solution")
    guess = _read(submission, "submission")
    missing = truth.index.difference(guess.index)
    if len(missing):
        raise InputError(
            f"{submission} lacks {len(missing)} of the solution's isic_ids (first {missing[0]}):"
            " add their rows"
        )
    surplus = guess.index.difference(truth.index)
    if len(surplus):
        raise InputError(
            f"{submission} has {len(surplus)} isic_ids that the solution lacks (first {surplus[0]})"
        )
    target = truth[TARGET].to_numpy()
    if not np.isin(target, (0, 1)).all():
        raise InputError(f"{solution}: target must be 0 or 1 in every row")
    score = guess[TARGET].reindex(truth.index).to_numpy()
    top15 = None
    if PATIENT in truth:
        top15 = top15_sensitivity(truth[PATIENT].to_numpy(), target, score)
    return {
        "pauc": pauc(target, score),
        "auc": auc(target, score),
        "top15_sensitivity": top15,
        "n": len(truth),
        "positives": int(target.sum()),
    }


def _read(path: Path, role: str) -> pd.DataFrame:
    if not Path(path).is_file():
        raise InputError(f"{role} {path} is not a file: name a CSV with isic_id and target")
    frame = read_csv(Path(path), dtype={ID: "str", PATIENT: "str"})
    for column in (ID, TARGET):
        if column not in frame:
            raise InputError(f"{role} {path} lacks column `{column}`")
    if frame.empty:
        raise InputError(f"{role} {path} has no rows")
    if frame[ID].isna().any():
        raise InputError(f"{role} {path}: {int(frame[ID].isna().sum())} rows have no isic_id")
    if frame[ID].duplicated().any():
        raise InputError(
            f"{role} {path}: isic_id {frame.loc[frame[ID].duplicated(), ID].iloc[0]} occurs more"
            " than once"
        )
    if PATIENT in frame and frame[PATIENT].isna().any():
        raise InputError(
            f"{role} {path}: {int(frame[PATIENT].isna().sum())} rows have no patient_id"
        )
    targets = frame[TARGET]
    if targets.dtype.kind not in "fiu":  # pandas would take True and False for numbers
        targets = pd.to_numeric(targets.where(~targets.isin([True, False])), errors="coerce")
    values = targets.astype(np.float64)
    wrong = ~np.isfinite(values)
    if wrong.any():
        first = frame.loc[wrong].iloc[0]
        raise InputError(
            f"{role} {path}: target of {first[ID]} is {first[TARGET]}, a finite number is needed"
        )
    return frame.assign(target=values.astype(float)).set_index(ID)
