"""The metadata tables as frames: columns present, types fixed, ids unique."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from isic.core.csv_files import csv_columns, csv_format, read_csv, translate_csv_errors
from isic.core.errors import InputError
from isic.core.io import read_parquet
from isic.core.schema import (
    ID,
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
    """Read train-metadata.csv (55 columns) or test-metadata.csv (44 columns), in file order; the
    same as parquet is read by its content, whatever its name.

    Text columns come as pandas `str` with NaN for missing, measurements as float64, the target as
    int64. Extra columns raise for both, so that a leaking one cannot reach the test path. Raises
    InputError for a missing or empty file, missing or unknown columns, text where a number belongs,
    a target other than 0 or 1, a missing or repeated isic_id.
    """
    path = Path(path)
    frame = _typed(_read(path), path, TRAIN_COLUMNS if train else TEST_COLUMNS)
    if frame.empty:
        raise InputError(f"{path} has a header and no rows: put the official file there")
    _check_ids(frame[ID], path)
    return frame


def metadata_chunks(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    """The columns of test-metadata.csv of a test or training table, CSV or parquet, in chunks of at
    most `rows` rows, for tables larger than memory; the index counts on.

    Train-only columns are not read. Raises InputError as `read_metadata` does; a repeated isic_id
    is found within a chunk only.
    """
    path = Path(path)
    if _is_parquet(path):
        for chunk in _parquet_chunks(path, rows):
            frame = _typed(chunk, path, TEST_COLUMNS)
            _check_ids(frame[ID], path)
            yield frame
        return
    names = csv_columns(path)
    _check_columns([name for name in names if name not in TRAIN_ONLY], TEST_COLUMNS, path)
    with (
        translate_csv_errors(path),
        pd.read_csv(
            path,
            **csv_format(path),
            usecols=list(TEST_COLUMNS),
            dtype=dict.fromkeys(TEXT, "str"),
            chunksize=rows,
        ) as chunks,
    ):
        for chunk in chunks:
            frame = _typed(chunk, path, TEST_COLUMNS)
            _check_ids(frame[ID], path)
            yield frame


#: Text columns are read as text even where their values look like numbers.
_AS_TEXT = dict.fromkeys((*TEXT, *TRAIN_ONLY_TEXT), "str")


def _is_parquet(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"PAR1"


def _parquet_chunks(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    start = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            _check_columns([name for name in names if name not in TRAIN_ONLY], TEST_COLUMNS, path)
            for batch in file.iter_batches(rows, columns=list(TEST_COLUMNS)):
                chunk = batch.to_pandas()
                chunk.index = pd.RangeIndex(start, start + len(chunk))
                start += len(chunk)
                yield _with_text(chunk)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} is a damaged parquet file ({' '.join(str(error).split())[:120]}): write it"
            " again, or name another file"
        ) from error


def _with_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its text columns as text, whatever parquet stores them as."""
    return frame.assign(**{name: frame[name].astype("str") for name in _AS_TEXT if name in frame})


def _read(path: Path) -> pd.DataFrame:
    """The table. Reading all as text doubles the time, so only text columns inferred as another
    type are read again.
    """
    if _is_parquet(path):
        return _with_text(read_parquet(path))
    frame = read_csv(path)
    other = [name for name in _AS_TEXT if name in frame and frame[name].dtype != "str"]
    texts = {name: frame[name].astype("str") for name in other if frame[name].isna().all()}
    if doubtful := [name for name in other if name not in texts]:
        texts |= dict(read_csv(path, usecols=doubtful, dtype="str").items())
    return frame.assign(**texts)


def _typed(frame: pd.DataFrame, path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    _check_columns(list(frame.columns), columns, path)
    frame = frame[list(columns)]
    numbers = {
        column: _numeric(frame[column], path)
        for column in (*NUMERIC, *_TRAIN_ONLY_NUMERIC)
        if column in columns
    }
    frame = frame.assign(**numbers)
    return frame.assign(target=_target(frame[TARGET], path)) if TARGET in columns else frame


def _check_columns(names: list[str], expected: tuple[str, ...], path: Path) -> None:
    missing = [column for column in expected if column not in names]
    if missing:
        raise InputError(
            f"{path} lacks {_quoted(missing)}: use the official file with all {len(expected)}"
            " columns"
        )
    extra = [column for column in names if column not in expected]
    if extra:
        index = " (a row number without a name, as pandas writes it)" if "" in extra else ""
        raise InputError(
            f"{path} has unknown {_quoted(extra)}{index}: keep only the {len(expected)} official"
            " columns"
        )


def _quoted(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"column{'s' if len(names) > 1 else ''} {shown}{more}"


def _numeric(column: pd.Series, path: Path) -> pd.Series:
    if column.dtype.kind in "fiu":
        return column.astype(np.float64)
    # pandas reads True and False as booleans, in one column or among numbers.
    values = pd.to_numeric(column.where(~column.isin([True, False])), errors="coerce")
    wrong = values.isna() & column.notna()
    if wrong.any():
        line = _line(path, column.index[wrong])
        value = column[wrong].iloc[0]
        hint = ": write decimals with a point, not a comma" if "," in str(value) else ""
        raise InputError(
            f"{path} {line}: column `{column.name}` holds {str(value)!r}, a number is needed{hint}"
        )
    return values.astype(np.float64)


def _target(column: pd.Series, path: Path) -> pd.Series:
    values = _numeric(column, path)
    invalid = ~values.isin([0.0, 1.0])
    if invalid.any():
        line = _line(path, column.index[invalid])
        raise InputError(f"{path} {line}: target is {values[invalid].iloc[0]}, it must be 0 or 1")
    return values.astype(np.int64)


def _line(path: Path, rows: pd.Index) -> str:
    """The first of these rows as people count: lines from 1, the header included; rows of parquet
    from 1.
    """
    return f"row {rows[0] + 1}" if _is_parquet(path) else f"line {rows[0] + 2}"


def _check_ids(ids: pd.Series, path: Path) -> None:
    if ids.isna().any():
        raise InputError(f"{path} {_line(path, ids.index[ids.isna()])}: isic_id is missing")
    repeated = ids[ids.duplicated()]
    if len(repeated):
        raise InputError(
            f"{path}: isic_id {repeated.iloc[0]} occurs more than once ({len(repeated)} repeated"
            " rows): keep one"
        )
