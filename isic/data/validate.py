"""The data contract of the five files, checked before training.

Rules of a row are in `isic.data.rules`, those across rows and files here. All faults are reported
at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from isic.core.csv_files import read_csv
from isic.core.errors import InputError
from isic.core.schema import (
    ID,
    PATIENT,
    TARGET,
    TEST_COLUMNS,
)
from isic.data.rules import row_faults
from isic.data.tables import read_metadata
from isic.data.tiles import TileStore

#: Columns that are a function of another, as (from, to).
_FUNCTIONAL = (
    ("tbp_lv_location", "tbp_lv_location_simple"),
    ("tbp_lv_location_simple", "anatom_site_general"),
    ("attribution", "copyright_license"),
)


def validate(raw: Path) -> dict[str, Any]:
    """Check the official files in `raw` and return their counts (JSON-able).

    Raises InputError, in one line, with every broken rule: file, rule, number of rows, first row.
    """
    train = read_metadata(raw / "train-metadata.csv", train=True)
    test = read_metadata(raw / "test-metadata.csv", train=False)
    faults = [
        *(f"train-metadata.csv: {fault}" for fault in _table_faults(train)),
        *(f"test-metadata.csv: {fault}" for fault in _table_faults(test)),
        *_label_faults(train),
        *(
            f"train-image.hdf5: {fault}"
            for fault in _tile_faults(raw / "train-image.hdf5", train[ID])
        ),
        *(f"test-image.hdf5: {fault}" for fault in _tile_faults(raw / "test-image.hdf5", test[ID])),
        *_submission_faults(raw / "sample_submission.csv", test),
    ]
    if faults:
        shown = "; ".join(faults[:8]) + (f"; and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise InputError(f"{raw} breaks {len(faults)} rule{'s' * (len(faults) > 1)}: {shown}")
    return _summary(train, test)


def _table_faults(frame: pd.DataFrame) -> Iterator[str]:
    """Broken rules of a metadata table: missing values, infinities, ranges, identities, functional
    columns.
    """
    for fault in row_faults(frame):
        first = _row(frame, int(fault.rows[0]))
        yield f"`{fault.column}` {fault.problem} in {len(fault.rows)} rows (first {first})"
    for source, target in _FUNCTIONAL:
        pairs = frame[[source, target]].drop_duplicates()
        ambiguous = pairs.loc[pairs[source].duplicated(), source]
        if len(ambiguous):
            yield f"`{source}` {ambiguous.iloc[0]!r} has several values of `{target}`"


def _label_faults(train: pd.DataFrame) -> Iterator[str]:
    if not train[TARGET].any():
        yield "train-metadata.csv: no malignant row (target 1)"
    elif train[TARGET].all():
        yield "train-metadata.csv: no benign row (target 0)"
    hospitals = train.groupby(PATIENT)["attribution"].nunique()
    if (hospitals > 1).any():
        yield (
            f"train-metadata.csv: patient {hospitals.idxmax()} has several values of `attribution`"
        )


def _tile_faults(path: Path, ids: pd.Series) -> Iterator[str]:
    """Broken rules between a tile file and the table's isic_ids: missing, surplus, undecodable."""
    store = TileStore(path)
    stored = set(store.ids())
    missing = [name for name in ids if name not in stored]
    if missing:
        yield f"no image for {len(missing)} rows (first {missing[0]})"
    surplus = stored - set(ids)
    if surplus:
        yield f"{len(surplus)} images without a metadata row (first {min(surplus)})"
    broken = list(_broken_tiles(store, [name for name in ids if name in stored]))
    if broken:
        yield f"{len(broken)} tiles cannot be decoded (first: {broken[0]})"


def _broken_tiles(store: TileStore, ids: list[str]) -> Iterator[str]:
    for name in ids:
        try:
            store.image(name)
        except InputError as error:
            yield str(error)


def _submission_faults(path: Path, test: pd.DataFrame) -> Iterator[str]:
    try:
        sample = read_csv(path, dtype={ID: "str"})
    except InputError as error:
        yield str(error)
        return
    if list(sample.columns) != [ID, TARGET]:
        yield f"{path.name}: columns are {list(sample.columns)}, they must be isic_id and target"
    elif set(sample[ID]) != set(test[ID]) or len(sample) != len(test):
        yield f"{path.name}: its isic_ids are not those of test-metadata.csv"


def _row(frame: pd.DataFrame, position: int) -> str:
    # +2: one for the header, one because people count lines from 1.
    return f"line {position + 2}, {frame[ID].iloc[position]}"


def _summary(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, Any]:
    known = set(train["attribution"])
    return {
        "rows": len(train),
        "positives": int(train[TARGET].sum()),
        "patients": int(train[PATIENT].nunique()),
        "positive_patients": int(train.loc[train[TARGET] == 1, PATIENT].nunique()),
        "prevalence": float(train[TARGET].mean()),
        "hospitals": {
            str(name): int(count) for name, count in train["attribution"].value_counts().items()
        },
        "missing": {
            name: int(count)
            for name, count in train[list(TEST_COLUMNS)].isna().sum().items()
            if count
        },
        "test_rows": len(test),
        "test_patients": int(test[PATIENT].nunique()),
        # Not a fault: the hidden test set is expected to contain hospitals that are not in
        # training.
        "test_hospitals_unseen": sorted(set(test["attribution"]) - known),
    }
