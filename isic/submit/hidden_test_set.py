"""A generated test set of any size with the known edge cases of submissions."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from isic.core.errors import InputError
from isic.core.io import write_csv
from isic.core.schema import ID, PATIENT, TARGET, TEST_COLUMNS

#: The largest patient of the training set has 9,184 lesions.
_LARGEST = 9000
_FEWEST = 10
UNSEEN = "A hospital that is in no training file"


def write_hidden_test_set(out: Path, rows: int, seed: int = 0) -> None:
    """Write test-metadata.csv, test-image.hdf5 and sample_submission.csv with `rows` (>= 10)
    generated lesions.

    Edge cases: a patient with one lesion, one with 9,000 (or half of all), an unseen hospital,
    missing values, a lesion without a tile and a truncated tile. Raises InputError for fewer than
    10 lesions.
    """
    if rows < _FEWEST:
        raise InputError(
            f"a generated test set needs at least {_FEWEST} lesions for its edge cases, not {rows}"
        )
    from isic.data.sample import write_sample
    from isic.data.tables import read_metadata
    from isic.submit.corrupt_tiles import corrupt_tiles

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as name:
        raw = Path(name) / "raw"
        write_sample(raw, max(3, rows // 400), rows, max(2, rows // 1000), seed)
        table = read_metadata(raw / "train-metadata.csv", train=True)[list(TEST_COLUMNS)]
        shutil.move(raw / "train-image.hdf5", out / "test-image.hdf5")
    corrupt_tiles(out / "test-image.hdf5", table[ID].iloc[2], table[ID].iloc[3])
    write_csv(out / "test-metadata.csv", add_edge_cases(table, seed))
    write_csv(out / "sample_submission.csv", pd.DataFrame({ID: table[ID], TARGET: 0.3}))


def add_edge_cases(table: pd.DataFrame, seed: int) -> pd.DataFrame:
    """`table` with the edge cases of `write_hidden_test_set`."""
    rng = np.random.default_rng(seed)
    row = np.arange(len(table))
    large = min(_LARGEST, len(table) // 2)
    changed = table.assign(
        **{
            PATIENT: (
                table[PATIENT]
                .mask(row == 0, "IP_ALONE")
                .mask((row > 0) & (row <= large), "IP_LARGEST")
            )
        },
        attribution=table["attribution"].mask(row % 50 == 7, UNSEEN),
    )
    for column in ("age_approx", "sex", "anatom_site_general"):
        changed[column] = changed[column].mask(rng.random(len(table)) < 0.05)
    return changed
