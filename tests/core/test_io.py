"""A file is the old version or the new one, never half of either."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd
import pytest

from isic.core.errors import InputError
from isic.core.io import (
    atomic_dir,
    atomic_file,
    read_json,
    read_parquet,
    sha256,
    write_json,
    write_parquet,
)


def _fail_half_way(writer: AbstractContextManager[Path], name: str) -> None:
    with writer as temporary:
        (temporary / name).write_text("half")
        raise RuntimeError


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        _fail_half_way(atomic_file(path), "")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["scores.csv"]


def test_failed_folder_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "weights").write_text("old")
    with pytest.raises(RuntimeError):
        _fail_half_way(atomic_dir(path), "weights")
    assert (path / "weights").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_new_folder_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "stale").write_text("old")
    with atomic_dir(path) as temporary:
        (temporary / "weights").write_text("new")
    assert sorted(file.name for file in path.iterdir()) == ["weights"]
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


def test_json_refuses_what_is_not_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"pauc": float("nan")})
    assert not path.exists()
    write_json(path, {"pauc": 0.15})
    assert json.loads(path.read_text()) == {"pauc": 0.15} == read_json(path)


@pytest.mark.parametrize("content", ["", "{", "\x00\xff"])
def test_broken_json_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"metrics\.json is not valid JSON"):
        read_json(path)


def test_truncated_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "folds.parquet"
    write_parquet(path, pd.DataFrame({"a": range(1000)}))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"folds\.parquet cannot be read"):
        read_parquet(path)
    with pytest.raises(InputError, match="not found"):
        read_parquet(tmp_path / "none.parquet")


def test_folder_hash_sees_names_and_bytes(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(text)
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b") != sha256(tmp_path / "c")
    (tmp_path / "b" / "file").rename(tmp_path / "b" / "other")
    assert sha256(tmp_path / "a") != sha256(tmp_path / "b")
