"""The one way to read a CSV, as tools write them: quoted, with a byte-order mark, compressed, in
UTF-16, with tabs or semicolons. What is not clear is one line that names the cause.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from isic.core.errors import InputError

#: What a missing value is written as, by hand and by pandas, R and databases.
MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "<NA>")
#: First bytes of other kinds of file, and their names.
_OTHERS = {
    b"PAR1": "a parquet file",
    b"\x89HDF": "an HDF5 file",
    b"%PDF": "a PDF",
    b"\xd0\xcf\x11\xe0": "an Excel file",
    b"<": "a web page or XML",
    b"{": "JSON",
    b"[": "JSON",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it",
}
_COMPRESSED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bz2", b"\xfd7zXZ": "xz"}
_BROKEN = (EOFError, OSError, zlib.error, zipfile.BadZipFile, lzma.LZMAError, NotImplementedError)


def csv_format(path: Path) -> dict[str, Any]:
    """Arguments for `pandas.read_csv` that fit the file: compression, encoding, separator, missing
    values.

    Raises InputError when the file is missing or no CSV. Call it within `translate_csv_errors`.
    """
    compression = _compression(path)
    with _opened(path, compression) as stream:
        start = stream.read(1 << 16)
    # An archive's content is judged like a bare file, once it is known to be whole.
    for mark, what in _OTHERS.items():
        if start.lstrip().startswith(mark):
            raise InputError(f"{path} is {what}, no CSV: name a CSV")
    encoding = "utf-8-sig"
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "utf-16"
    elif b"\0" in start:
        raise InputError(f"{path} holds NUL bytes (UTF-16, or damaged): save it as UTF-8")
    if not start.strip(b"\xff\xfe\xef\xbb\xbf\0\r\n "):
        raise InputError(f"{path} is empty: name another file")
    header = start.decode(encoding, errors="replace").lstrip().splitlines()[0]
    separator = max(",;\t", key=header.count)
    return {
        "compression": compression,
        "encoding": encoding,
        "sep": separator,
        "na_values": list(MISSING),
        "keep_default_na": False,
        "low_memory": False,
    }


def csv_columns(path: Path) -> list[str]:
    """Names of the columns. Raises InputError as `read_csv` does, and for a name that occurs twice."""
    with translate_csv_errors(path):
        form = csv_format(path)
        with (
            _opened(path, form["compression"]) as raw,
            io.TextIOWrapper(raw, form["encoding"], newline="") as text,
        ):
            names = _first_row(text, form["sep"])
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path} has column `{name}` twice: keep one of them")
    return names


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """`pandas.read_csv` by the file's own form. InputError for a missing, empty or malformed file."""
    csv_columns(path)
    with translate_csv_errors(path):
        return pd.read_csv(path, **csv_format(path), **options)


def csv_rows(path: Path) -> Iterator[list[str]]:
    """The rows of a table of any length as text, the header first.

    Raises InputError as `csv_columns` does, and for a row with more or fewer fields than the header.
    """
    width = len(csv_columns(path))
    with translate_csv_errors(path):
        form = csv_format(path)
        with (
            _opened(path, form["compression"]) as raw,
            io.TextIOWrapper(raw, form["encoding"], newline="") as text,
        ):
            rows = csv.reader(text, delimiter=form["sep"])
            for row in rows:
                if len(row) == width:
                    yield row
                elif row:
                    raise InputError(
                        f"{path} line {rows.line_num}: {len(row)} fields, the header has {width}:"
                        " mend it"
                    )


@contextmanager
def translate_csv_errors(path: Path) -> Iterator[None]:
    """Raise InputError in place of the errors of a missing, empty or malformed CSV file."""
    if not path.is_file():
        if path.is_dir():
            raise InputError(f"{path}: is a directory: name a CSV")
        problem = "is no file" if path.exists() else "not found"
        raise InputError(f"{path} {problem}: check the path, or run `dvc repro data`")
    try:
        yield
    except pd.errors.EmptyDataError as error:
        raise InputError(f"{path} is empty: name another file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not in UTF-8 ({error.reason}): save it as UTF-8") from error
    except (pd.errors.ParserError, csv.Error, ValueError) as error:
        raise InputError(
            f"{path} is not a readable CSV ({' '.join(str(error).split())}): mend it, or name"
            " another file"
        ) from error
    except _BROKEN as error:
        form = _compression(path)
        if form is None:
            raise
        raise InputError(
            f"{path} is a damaged {form} archive ({' '.join(str(error).split())}): copy it again,"
            " or unpack it"
        ) from error


def _compression(path: Path) -> str | None:
    with path.open("rb") as stream:
        start = stream.read(8)
    return next((form for mark, form in _COMPRESSED.items() if start.startswith(mark)), None)


@contextmanager
def _opened(path: Path, compression: str | None) -> Iterator[Any]:
    if compression == "zip":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(names) != 1:
                raise InputError(
                    f"{path} is a zip archive of {len(names)} files (an Excel file is one): unpack"
                    " the CSV"
                )
            with archive.open(names[0]) as stream:
                yield stream
        return
    openers: dict[str | None, Any] = {
        None: open,
        "gzip": gzip.open,
        "bz2": bz2.open,
        "xz": lzma.open,
    }
    with openers[compression](path, "rb") as stream:
        yield stream


def _first_row(text: TextIO, separator: str) -> list[str]:
    for row in csv.reader(text, delimiter=separator):
        if row:
            return row
    return []
