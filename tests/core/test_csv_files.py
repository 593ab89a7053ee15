"""A CSV is read as tools write it, or one line names why not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from isic.core.csv_files import csv_columns, read_csv
from isic.core.errors import InputError

TABLE = pd.DataFrame({"isic_id": ["a", "b, c", 'd"e'], "target": [0.5, None, 1.0]})


def _zip(data: bytes, *more: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("t.csv", *more):
            archive.writestr(name, data)
    return stream.getvalue()


PLAIN = TABLE.to_csv(index=False).encode()
READ = {
    "plain": PLAIN,
    "quoted": TABLE.to_csv(index=False, quoting=1).encode(),
    "BOM": PLAIN.decode().encode("utf-8-sig"),
    "quoted with BOM": TABLE.to_csv(index=False, quoting=1).encode("utf-8-sig"),
    "CRLF": PLAIN.replace(b"\n", b"\r\n"),
    "old Mac": PLAIN.replace(b"\n", b"\r"),
    "blank lines first": b"\n\n" + PLAIN,
    "UTF-16": PLAIN.decode().encode("utf-16"),
    "UTF-16 big-endian": b"\xfe\xff" + PLAIN.decode().encode("utf-16-be"),
    "semicolons": TABLE.to_csv(index=False, sep=";").encode(),
    "tabs": TABLE.to_csv(index=False, sep="\t").encode(),
    "gzip": gzip.compress(PLAIN, mtime=0),
    "zip": _zip(PLAIN),
    "bz2": bz2.compress(PLAIN),
    "xz": lzma.compress(PLAIN),
    "gzip of UTF-16 tabs": gzip.compress(
        TABLE.to_csv(index=False, sep="\t").encode("utf-16"), mtime=0
    ),
    **{
        f"missing {text}": TABLE.to_csv(index=False, na_rep=text).encode()
        for text in ("NA", "NaN", "nan", "N/A", "NULL", "null", "<NA>")
    },
}


@pytest.mark.parametrize("form", READ)
def test_forms_of_one_table_are_read_alike(tmp_path: Path, form: str) -> None:
    (tmp_path / "t.csv").write_bytes(READ[form])
    assert csv_columns(tmp_path / "t.csv") == ["isic_id", "target"]
    pd.testing.assert_frame_equal(read_csv(tmp_path / "t.csv"), read_csv_plain(tmp_path))


def read_csv_plain(folder: Path) -> pd.DataFrame:
    (folder / "plain.csv").write_bytes(PLAIN)
    return pd.read_csv(folder / "plain.csv")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\xff\xfe", "is empty"),
        (gzip.compress(b"", mtime=0), "is empty"),
        (gzip.compress(PLAIN, mtime=0)[:-9], "damaged gzip archive"),
        (b"\x1f\x8b" + b"x" * 50, "damaged gzip archive"),
        (_zip(PLAIN)[:-30], "damaged zip archive"),
        (_zip(PLAIN * 90)[:20] + b"\0" * 40 + _zip(PLAIN * 90)[60:], "damaged zip archive"),
        (_zip(PLAIN, "u.csv"), "zip archive of 2 files"),
        (bz2.compress(PLAIN)[:-9], "damaged bz2 archive"),
        (lzma.compress(PLAIN)[:-9], "damaged xz archive"),
        (PLAIN.decode().encode("utf-16-le"), "NUL bytes"),
        (b"PAR1" + b"\0" * 50, "a parquet file"),
        (b"  <!DOCTYPE html>", "a web page"),
        (b'{"a": 1}', "JSON"),
        (b"%PDF-1.7", "a PDF"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"isic_id,target\nV\xe9,1\n", "not in UTF-8"),
        (b"isic_id,target,target\na,1,2\n", "column `target` twice"),
        (b'isic_id,target\n"a,1\n', "not a readable CSV"),
        (b"isic_id,target\na,1\nb,2,3,4\n", "not a readable CSV"),
    ],
)
def test_another_file_is_named(tmp_path: Path, data: bytes, line: str) -> None:
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(InputError, match=rf"t\.csv .*{line}") as raised:
        read_csv(tmp_path / "t.csv")
    assert "\n" not in str(raised.value)
