"""The submission file: scores of the test lesions, validated before it is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from isic.core.csv_files import read_csv
from isic.core.errors import InputError
from isic.core.io import refuse_output, write_csv
from isic.core.locks import alone
from isic.core.schema import ID, TARGET
from isic.data.patient_chunks import open_chunked
from isic.predict.bundle import Bundle
from isic.predict.files import drop_work, score
from isic.predict.rows import CHUNK_ROWS
from isic.predict.scoring import MissingImages


def submit(
    bundle: Bundle,
    competition: Path,
    out: Path,
    missing_images: MissingImages = "error",
    fallback: bool = False,
) -> pd.DataFrame:
    """Score the test files in folder `competition` with `bundle` into `out`, and return the
    submission.

    `missing_images` and `fallback` as for `isic.predict.files.predict`. Raises InputError when the
    test files are not usable or the submission is not valid; then no file is written.
    """
    refuse_output(out, competition, bundle.folder)
    expected = read_sample(competition / "sample_submission.csv")
    with alone(out), open_chunked(competition / "test-metadata.csv", CHUNK_ROWS) as rows:
        _check_lesions(rows.ids, expected)  # before hours of scoring
        images = competition / "test-image.hdf5"
        # Nobody can change the official test files, whose public part has three lesions.
        table = score(bundle, rows, images, out, missing_images, fallback, warn=False)
        scores = table.set_index(ID)[TARGET]
        values = scores.loc[expected].to_numpy()
        submission = pd.DataFrame({ID: expected.to_numpy(), TARGET: values})
        check_submission(submission, expected)
        write_csv(out, submission)
        drop_work(out)
    return submission


def read_sample(path: Path) -> pd.Series:
    """The ids of sample_submission.csv, in the order a submission must have."""
    sample = read_csv(path, dtype={ID: "str"})
    if list(sample.columns) != [ID, TARGET]:
        raise InputError(
            f"{path} has columns {list(sample.columns)}, not {ID} and {TARGET}: put the official"
            " file there"
        )
    return sample[ID]


def _check_lesions(ids: pd.Series, expected: pd.Series) -> None:
    """Raise InputError naming a lesion of only the test rows or only the sample submission."""
    unscored, unknown = expected[~expected.isin(ids)], ids[~ids.isin(expected)]
    if len(unscored):
        raise InputError(
            f"{len(unscored)} lesions of the sample submission have no test row, first"
            f" {unscored.iloc[0]}"
        )
    if len(unknown):
        raise InputError(
            f"{len(unknown)} test rows are not in the sample submission, first {unknown.iloc[0]}"
        )


def check_submission(submission: pd.DataFrame, expected: pd.Series) -> None:
    """Raise InputError unless columns, ids, their order and the range of scores are valid for the
    competition.
    """
    if list(submission.columns) != [ID, TARGET]:
        raise InputError(
            f"a submission has columns {ID} and {TARGET}, not {list(submission.columns)}"
        )
    if submission[ID].duplicated().any():
        raise InputError(
            f"lesion {submission[ID][submission[ID].duplicated()].iloc[0]} occurs twice in the"
            " submission"
        )
    if submission[ID].tolist() != expected.tolist():
        raise InputError(
            "the submission's lesions are not those of the sample submission in its order"
        )
    wrong = ~np.isfinite(submission[TARGET]) | (submission[TARGET] < 0) | (submission[TARGET] > 1)
    if wrong.any():
        first = submission[wrong].iloc[0]
        raise InputError(
            f"lesion {first[ID]} has score {first[TARGET]}: scores must be numbers from 0 to 1"
        )
