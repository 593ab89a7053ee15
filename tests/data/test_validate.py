"""The data contract, through its stage: one line, exit status 2, no partial output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from isic.core.io import read_json
from isic.data.validate import validate
from tests.conftest import Outcome, rows_of

Stage = Callable[..., Outcome]


def _table(checkout: Path, name: str = "train-metadata.csv") -> tuple[Path, pd.DataFrame]:
    path = checkout / "data" / "raw" / name
    return path, pd.read_csv(path, low_memory=False)


def _set(checkout: Path, column: str, value: object, rows: slice = slice(3, 5)) -> None:
    path, frame = _table(checkout)
    values = frame[column].astype(object).to_numpy(copy=True)
    values[rows] = value
    frame.assign(**{column: values}).to_csv(path, index=False)


def _drop_image(checkout: Path) -> None:
    _, frame = _table(checkout)
    with h5py.File(checkout / "data" / "raw" / "train-image.hdf5", "a") as file:
        del file[frame["isic_id"].iloc[7]]


def _extra_image(checkout: Path) -> None:
    with h5py.File(checkout / "data" / "raw" / "train-image.hdf5", "a") as file:
        file.create_dataset("ISIC_9999999", data=np.bytes_(b"\xff\xd8"))


def _change_image(checkout: Path, change: Callable[[bytes], object]) -> None:
    """Replace the bytes of the third tile by `change` of them."""
    _, frame = _table(checkout)
    name = frame["isic_id"].iloc[2]
    with h5py.File(checkout / "data" / "raw" / "train-image.hdf5", "a") as file:
        data = bytes(file[name][()])
        del file[name]
        file[name] = change(data)


def _bomb(data: bytes) -> np.bytes_:
    """The same JPEG, claiming 65,000 pixels a side."""
    bomb = bytearray(data)
    frame = bomb.index(b"\xff\xc0")
    bomb[frame + 5 : frame + 9] = (65000).to_bytes(2, "big") * 2
    return np.bytes_(bytes(bomb))


def _edit(checkout: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path, frame = _table(checkout)
    change(frame).to_csv(path, index=False)


def _truncate(checkout: Path) -> None:
    path = checkout / "data" / "raw" / "train-image.hdf5"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def _shuffle_submission(checkout: Path) -> None:
    path, frame = _table(checkout, "sample_submission.csv")
    frame.assign(isic_id=["ISIC_1", *frame["isic_id"].iloc[1:]]).to_csv(path, index=False)


FAULTS: dict[str, Callable[[Path], object]] = {
    "`tbp_lv_A` is missing in 2 rows (first line 5, ISIC_": lambda at: _set(at, "tbp_lv_A", np.nan),
    "`tbp_lv_z` is infinite in 2 rows": lambda at: _set(at, "tbp_lv_z", np.inf),
    "`tbp_lv_eccentricity` is outside 0 to 1 in 2 rows": lambda at: _set(
        at, "tbp_lv_eccentricity", 7.0
    ),
    "`tbp_lv_H` differs from its formula by up to": lambda at: _set(at, "tbp_lv_H", 11.0),
    "has several values of `copyright_license`": lambda at: _set(at, "copyright_license", "CC-X"),
    "no malignant row": lambda at: _set(at, "target", 0, slice(None)),
    "no image for 1 rows (first ISIC_": _drop_image,
    "1 images without a metadata row (first ISIC_9999999)": _extra_image,
    "1 tiles cannot be decoded (first: tile ISIC_": lambda at: _change_image(
        at, lambda data: np.bytes_(data[:30])
    ),
    "claims 65000 x 65000 pixels": lambda at: _change_image(at, _bomb),
    "is a link: use a file that contains its tiles": lambda at: _change_image(
        at, lambda _: h5py.ExternalLink("/etc/hosts", "/")
    ),
    "lacks column `tbp_lv_H`": lambda at: _edit(at, lambda frame: frame.drop(columns="tbp_lv_H")),
    "unknown column `diagnosis`": lambda at: _edit(at, lambda frame: frame.assign(diagnosis=1)),
    "occurs more than once (1 repeated rows)": lambda at: _edit(
        at, lambda frame: pd.concat([frame, frame.iloc[:1]])
    ),
    "a header and no rows": lambda at: _edit(at, lambda frame: frame.iloc[:0]),
    "line 5: column `tbp_lv_A` holds 'red', a number is needed": lambda at: _set(
        at, "tbp_lv_A", "red"
    ),
    "line 5: target is 2.0": lambda at: _set(at, "target", 2),
    "not a complete HDF5 file": _truncate,
    "isic_ids are not those of test-metadata.csv": _shuffle_submission,
    "test-metadata.csv not found": lambda at: (at / "data" / "raw" / "test-metadata.csv").unlink(),
    "train-image.hdf5 not found": lambda at: (at / "data" / "raw" / "train-image.hdf5").unlink(),
}


@pytest.mark.parametrize("message", FAULTS)
def test_each_broken_rule_stops_the_stage(checkout: Path, stage: Stage, message: str) -> None:
    FAULTS[message](checkout)
    outcome = stage("validate")
    assert outcome.code == 2
    assert outcome.error.startswith("isic: error: ")
    assert outcome.error.count("\n") == 1
    assert message in outcome.error
    assert not (checkout / "metrics").exists()


def test_folds_without_positives_and_typos_stop_the_stage(checkout: Path, stage: Stage) -> None:
    whole = (checkout / "data" / "raw" / "train-metadata.csv").read_bytes()
    _, frame = _table(checkout)
    _set(
        checkout,
        "target",
        (frame["patient_id"] == frame["patient_id"].iloc[0]).astype(int),
        slice(None),
    )
    _expect(
        stage("folds"),
        "1 patients with a malignant lesion cannot fill 3 folds",
        checkout / "data" / "folds.parquet",
    )
    (checkout / "data" / "raw" / "train-metadata.csv").write_bytes(whole)
    text = (checkout / "params.yaml").read_text()
    (checkout / "params.yaml").write_text(text.replace("\nsplit:\n  seed:", "\nsplit:\n  sede:"))
    _expect(
        stage("folds"), "params.yaml: unknown key `split.sede`", checkout / "data" / "folds.parquet"
    )


def _expect(outcome: Outcome, message: str, absent: Path) -> None:
    assert outcome.code == 2
    assert outcome.error.startswith("isic: error: ")
    assert outcome.error.count("\n") == 1
    assert message in outcome.error
    assert list(absent.parent.glob(f"*{absent.name}*")) == []


def test_all_faults_are_told_at_once(checkout: Path, stage: Stage) -> None:
    _set(checkout, "tbp_lv_A", np.nan)
    _extra_image(checkout)
    outcome = stage("validate")
    assert "`tbp_lv_A` is missing" in outcome.error
    assert "images without a metadata row" in outcome.error


def test_unseen_categories_are_welcome(checkout: Path, stage: Stage) -> None:
    path, frame = _table(checkout, "test-metadata.csv")
    frame.assign(attribution="A new hospital", copyright_license="CC-BY").to_csv(path, index=False)
    assert stage("validate").code == 0
    assert read_json(checkout / "metrics" / "validate.json")["test_hospitals_unseen"] == [
        "A new hospital"
    ]


def test_generated_and_real_data_hold_the_contract(sample_raw: Path, real_data: Path) -> None:
    assert validate(sample_raw)["positives"] == 24
    found = validate(real_data / "competition")
    assert (found["rows"], found["positives"]) == rows_of(real_data)
    assert found["test_hospitals_unseen"] == ["FNQH Cairns"]


def test_folder_source_is_copied_and_never_written(
    checkout: Path, stage: Stage, sample_raw: Path
) -> None:
    text = (checkout / "params.yaml").read_text().replace("source: sample", "source: folder")
    (checkout / "params.yaml").write_text(text.replace("folder: #", f"folder: {sample_raw} #"))
    before = {file.name: file.stat().st_mtime_ns for file in sample_raw.iterdir()}
    assert stage("data").code == 0
    assert {file.name: file.stat().st_mtime_ns for file in sample_raw.iterdir()} == before
    for file in sample_raw.iterdir():
        assert (checkout / "data" / "raw" / file.name).read_bytes() == file.read_bytes()


def test_incomplete_folder_keeps_what_was_there(
    checkout: Path, stage: Stage, tmp_path: Path
) -> None:
    (tmp_path / "partial").mkdir()
    text = (checkout / "params.yaml").read_text().replace("source: sample", "source: folder")
    (checkout / "params.yaml").write_text(text.replace("folder: #", "folder: ../partial #"))
    outcome = stage("data")
    assert outcome.code == 2
    assert "lacks train-metadata.csv" in outcome.error
    assert "`make data`" in outcome.error
    assert len(list((checkout / "data" / "raw").iterdir())) == 5
    assert [file.name for file in (checkout / "data").iterdir()] == ["raw"]


def test_the_folder_that_is_filled_cannot_be_its_own_source(checkout: Path, stage: Stage) -> None:
    text = (checkout / "params.yaml").read_text().replace("source: sample", "source: folder")
    (checkout / "params.yaml").write_text(text.replace("folder: #", "folder: data/raw #"))
    outcome = stage("data")
    assert outcome.code == 2
    assert "keep the files elsewhere" in outcome.error
    assert len(list((checkout / "data" / "raw").iterdir())) == 5
