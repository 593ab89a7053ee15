"""The metadata tables as frames: columns present, types fixed, ids unique."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from isic.core.errors import InputError
from isic.core.schema import (
    ID,
    MAY_BE_MISSING,
    NUMERIC,
    TARGET,
    TEST_COLUMNS,
    TEXT,
    TRAIN_COLUMNS,
    TRAIN_ONLY,
    TRAIN_ONLY_TEXT,
)

_TRAIN_ONLY_NUMERIC = tuple(
    column for column in TRAIN_ONLY if column not in TRAIN_ONLY_TEXT and column != TARGET
)


def read_metadata(path: Path, train: bool) -> pd.DataFrame:
    """Read train-metadata.csv (55 columns) or test-metadata.csv (44 columns), in file order.

    Text columns come as pandas `str` with NaN for missing, measurements as float64, the target as
    int64. Extra columns raise for both, so that a leaking one cannot reach the test path. Raises
    InputError for a missing or empty file, missing or unknown columns, text where a number belongs,
    a target other than 0 or 1, a missing or repeated isic_id.
    """
    path = Path(path)
    with _translate_csv_errors(path):
        frame = _typed(_read(path), path, train)
    if frame.empty:
        raise InputError(f"{path} has a header and no rows: put the official file there")
    _check_ids(frame[ID], path)
    return frame


def metadata_chunks(path: Path, train: bool, rows: int) -> Iterator[pd.DataFrame]:
    """`read_metadata` in chunks of at most `rows` rows, for tables larger than memory; the index
    continues.

    A repeated isic_id is detected within a chunk only.
    """
    path = Path(path)
    with (
        _translate_csv_errors(path),
        pd.read_csv(path, **_CSV, dtype=_AS_TEXT, chunksize=rows) as chunks,
    ):
        for chunk in chunks:
            frame = _typed(chunk, path, train)
            _check_ids(frame[ID], path)
            yield frame


def refuse_gaps(rows: pd.DataFrame, where: str) -> None:
    """Raise InputError for a measurement that is infinite, or missing in a column that is complete
    in training.

    In a column without missing values in training, a model treats a missing one as zero, and its
    score is wrong.
    """
    for column in NUMERIC:
        values = rows[column].to_numpy(dtype=np.float64)
        invalid = np.isinf(values) if column in MAY_BE_MISSING else ~np.isfinite(values)
        if invalid.any():
            first = int(np.flatnonzero(invalid)[0])
            raise InputError(
                f"{where}: `{column}` of {rows[ID].iloc[first]} is {values[first]}, a finite number"
                f" is needed ({int(invalid.sum())} of {len(rows)} rows are wrong)"
            )


#: Numbers are parsed column by column, so that text in one row is reported with its row instead of
#: turning the column into text.
_CSV: dict[str, Any] = {"low_memory": False, "na_values": ["", "NA"], "keep_default_na": False}
#: Text columns are read as text even where their values look like numbers.
_AS_TEXT = dict.fromkeys((*TEXT, *TRAIN_ONLY_TEXT), "str")


def _read(path: Path) -> pd.DataFrame:
    """The table. Reading all as text doubles the time, so only text columns inferred as another
    type are read again.
    """
    frame = pd.read_csv(path, **_CSV)
    other = [name for name in _AS_TEXT if name in frame and frame[name].dtype != "str"]
    texts = {name: frame[name].astype("str") for name in other if frame[name].isna().all()}
    if unsure := [name for name in other if name not in texts]:
        texts |= dict(pd.read_csv(path, **_CSV, usecols=unsure, dtype="str").items())
    return frame.assign(**texts)


@contextmanager
def _translate_csv_errors(path: Path) -> Iterator[None]:
    """Raise InputError in place of the errors of a missing, empty or malformed CSV file."""
    if not path.is_file():
        raise InputError(
            f"{path} not found: run `dvc repro data`, or set data.folder to the official files"
        )
    try:
        yield
    except pd.errors.EmptyDataError as error:
        raise InputError(f"{path} is empty: put the official file there") from error
    except (pd.errors.ParserError, UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"{path} is not a readable CSV ({' '.join(str(error).split())}): fetch it again"
        ) from error


def _typed(frame: pd.DataFrame, path: Path, train: bool) -> pd.DataFrame:
    expected = TRAIN_COLUMNS if train else TEST_COLUMNS
    _check_columns(frame, expected, path)
    frame = frame[list(expected)]
    numbers = {
        column: _numeric(frame[column], path)
        for column in (*NUMERIC, *(_TRAIN_ONLY_NUMERIC if train else ()))
    }
    frame = frame.assign(**numbers)
    return frame.assign(target=_target(frame[TARGET], path)) if train else frame


def _check_columns(frame: pd.DataFrame, expected: tuple[str, ...], path: Path) -> None:
    missing = [column for column in expected if column not in frame.columns]
    if missing:
        raise InputError(
            f"{path} lacks {_quoted(missing)}: use the official file with all {len(expected)}"
            " columns"
        )
    extra = [str(column) for column in frame.columns if column not in expected]
    if extra:
        raise InputError(
            f"{path} has unknown {_quoted(extra)}: keep only the {len(expected)} official columns"
        )


def _quoted(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"column{'s' if len(names) > 1 else ''} {shown}{more}"


def _numeric(column: pd.Series, path: Path) -> pd.Series:
    if column.dtype.kind in "fiu":
        return column.astype(np.float64)
    values = pd.to_numeric(column, errors="coerce")
    invalid = values.isna() & column.notna()
    if invalid.any():
        # +2: the header, and lines count from 1.
        line = int(column.index[invalid][0]) + 2
        raise InputError(
            f"{path} line {line}: column `{column.name}` holds {column[invalid].iloc[0]!r}, a"
            " number is needed"
        )
    return values.astype(np.float64)


def _target(column: pd.Series, path: Path) -> pd.Series:
    values = _numeric(column, path)
    invalid = ~values.isin([0.0, 1.0])
    if invalid.any():
        line = int(column.index[invalid][0]) + 2
        raise InputError(
            f"{path} line {line}: target is {values[invalid].iloc[0]}, it must be 0 or 1"
        )
    return values.astype(np.int64)


def _check_ids(ids: pd.Series, path: Path) -> None:
    if ids.isna().any():
        raise InputError(f"{path} line {int(ids.index[ids.isna()][0]) + 2}: isic_id is missing")
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise InputError(
            f"{path}: isic_id {repeated.iloc[0]} occurs more than once ({len(repeated)} repeated"
            " rows): keep one"
        )
