"""Metadata tables: official files are read unchanged, errors name broken ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.schema import TEST_COLUMNS, TRAIN_COLUMNS, TRAIN_ONLY
from isic.data.tables import metadata_chunks, read_metadata
from tests.conftest import rows_of


def test_official_real_files_are_read(real_data: Path) -> None:
    train = read_metadata(real_data / "competition" / "train-metadata.csv", train=True)
    test = read_metadata(real_data / "competition" / "test-metadata.csv", train=False)
    assert tuple(train.columns) == TRAIN_COLUMNS
    assert tuple(test.columns) == TEST_COLUMNS
    assert (len(train), train["target"].sum()) == rows_of(real_data)
    assert len(test) == 3
    assert set(TRAIN_COLUMNS) - set(TEST_COLUMNS) == set(TRAIN_ONLY)


def test_types_do_not_depend_on_what_a_file_happens_to_hold(
    sample_raw: Path, tmp_path: Path
) -> None:
    frame = pd.read_csv(sample_raw / "test-metadata.csv")
    # All sites missing, whole-number measurements, texts like numbers: pandas alone would guess
    # float and int.
    frame["anatom_site_general"] = np.nan
    frame["tbp_lv_x"] = 3
    frame["patient_id"] = "007"
    frame.to_csv(tmp_path / "test-metadata.csv", index=False)
    read = read_metadata(tmp_path / "test-metadata.csv", train=False)
    reference = read_metadata(sample_raw / "test-metadata.csv", train=False)
    assert (read.dtypes == reference.dtypes).all()
    assert set(read["patient_id"]) == {"007"}


def _edit(column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.astype({column: object}).assign(
        **{column: [*frame[column].iloc[:4], value, *frame[column].iloc[5:]]}
    )


BROKEN: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "lacks column `tbp_lv_H`": lambda frame: frame.drop(columns="tbp_lv_H"),
    "unknown column `tbp_lv_hue`": lambda frame: frame.assign(tbp_lv_hue=1),
    r"occurs more than once \(1 repeated rows\)": lambda frame: pd.concat([frame, frame.iloc[:1]]),
    r"line 6: column `tbp_lv_A` holds 'red'": _edit("tbp_lv_A", "red"),
    r"line 6: target is 2\.0": _edit("target", 2),
    r"line 6: target is nan": _edit("target", None),
    r"line 6: isic_id is missing": _edit("isic_id", None),
    "a header and no rows": lambda frame: frame.iloc[:0],
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_tables_are_named(sample_raw: Path, tmp_path: Path, message: str) -> None:
    path = tmp_path / "train-metadata.csv"
    BROKEN[message](pd.read_csv(sample_raw / "train-metadata.csv", low_memory=False)).to_csv(
        path, index=False
    )
    with pytest.raises(InputError, match=message):
        read_metadata(path, train=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"\xff\xfe\x00bad", "not a readable CSV|lacks column")],
)
def test_files_that_are_no_tables_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_metadata(tmp_path / "t.csv", train=True)
    with pytest.raises(InputError, match="not found"):
        read_metadata(tmp_path / "none.csv", train=True)


def test_train_only_columns_are_refused_in_a_test_file(sample_raw: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(sample_raw / "test-metadata.csv").assign(tbp_lv_dnn_lesion_confidence=99.0)
    frame.to_csv(tmp_path / "test-metadata.csv", index=False)
    with pytest.raises(InputError, match="unknown column `tbp_lv_dnn_lesion_confidence`"):
        read_metadata(tmp_path / "test-metadata.csv", train=False)


def test_parquet_and_gzip_are_the_same_rows(sample_raw: Path, tmp_path: Path) -> None:
    whole = read_metadata(sample_raw / "test-metadata.csv", train=False)
    long = pd.read_csv(sample_raw / "train-metadata.csv", low_memory=False)
    shuffled = long[list(reversed(long.columns))].astype({"sex": "category", "tbp_lv_x": "str"})
    shuffled.to_parquet(tmp_path / "long", index=False, row_group_size=37)
    long.to_csv(tmp_path / "long.csv.gz", index=False)
    forms = [
        pd.concat(metadata_chunks(path, 50))
        for path in (
            sample_raw / "train-metadata.csv",
            tmp_path / "long",
            tmp_path / "long.csv.gz",
        )
    ]
    assert len(forms[0]) == len(long)
    for form in forms[1:]:
        pd.testing.assert_frame_equal(form, forms[0])
    pd.testing.assert_frame_equal(
        read_metadata(tmp_path / "long", train=True),
        read_metadata(sample_raw / "train-metadata.csv", train=True),
    )

    whole.assign(sex="female", tbp_lv_x="a").to_parquet(tmp_path / "bad", index=False)
    with pytest.raises(InputError, match="bad row 1: column `tbp_lv_x` holds 'a'"):
        list(metadata_chunks(tmp_path / "bad", 50))
    whole.drop(columns="tbp_lv_H").to_parquet(tmp_path / "short", index=False)
    with pytest.raises(InputError, match="lacks column `tbp_lv_H`"):
        list(metadata_chunks(tmp_path / "short", 50))
    (tmp_path / "cut").write_bytes((tmp_path / "long").read_bytes()[:5000])
    with pytest.raises(InputError, match="damaged parquet file"):
        list(metadata_chunks(tmp_path / "cut", 50))
